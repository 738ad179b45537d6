package ntlab

import (
	"fmt"

	"snap/phys"
)

// Possible reports whether Build takes c as it is.
func (c Config) Possible() bool {
	_, err := c.complete()
	return err == nil
}

// BuildOther makes a guest that doesn't run Windows, but something with page
// tables and a kernel in the upper half, as Linux has them. Of c's
// Profile and what follows Machine only LA57 and MonitorRegisters mean something here.
func BuildOther(c Config) (*Image, error) {
	c = Config{Seed: c.Seed, Memory: c.Memory, CPUs: c.CPUs, Machine: c.Machine, LA57: c.LA57, MonitorRegisters: c.MonitorRegisters}
	p, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("build other image: %w", err)
	}
	ram, windows, err := ramMap(c.Machine, c.Memory, c.HotPlug)
	if err != nil {
		return nil, fmt.Errorf("build other image: %w", err)
	}
	alloc, err := newAllocator(stream(c.Seed, 'a'), windows)
	if err != nil {
		return nil, fmt.Errorf("build other image: %w", err)
	}
	im := &Image{Config: c, mem: newSparse(ram.End()), ram: ram, alloc: alloc, tables: c.tablesOf(p), symbols: map[string]phys.VirtAddr{}}
	im.Config.Profile = ""
	if err := im.fillOther(); err != nil {
		return nil, fmt.Errorf("build other image: %w", err)
	}
	return im, nil
}

// Where Linux has its text and its direct map (Documentation/arch/x86/x86_64/mm.rst).
const (
	linuxText   phys.VirtAddr = 0xFFFFFFFF81000000
	linuxDirect phys.VirtAddr = 0xFFFF888000000000
	linuxEntry  phys.VirtAddr = 0xFFFFFE0000000000 // the entry area, with the interrupt table first
)

func (im *Image) fillOther() error {
	r := stream(im.Config.Seed, 'x')
	block, err := im.alloc.block(largePages)
	if err != nil {
		return err
	}
	root, err := im.alloc.page()
	if err != nil {
		return err
	}
	dtb := root.Addr()
	im.Truth.DirectoryTableBase = dtb
	if err := im.MapPage(dtb, linuxText, block, 2, kernelAll); err != nil {
		return err
	}
	if err := im.MapPage(dtb, linuxDirect, 0, 2, kernelData); err != nil {
		return err
	}
	percpu, err := im.alloc.block(largePages)
	if err != nil {
		return err
	}
	base := linuxDirect + 64*mib
	if err := im.MapPage(dtb, base, percpu, 2, kernelData); err != nil {
		return err
	}
	for p := range phys.PFN(8) {
		r.fill(im.mem.page(block + p)[:])
	}
	idt, err := im.alloc.page()
	if err != nil {
		return err
	}
	if err := im.MapPage(dtb, linuxEntry, idt, 1, kernelData); err != nil {
		return err
	}
	for i := range phys.VirtAddr(256) {
		gate(im.mem.page(idt)[16*i:], linuxText+0x800+16*i, false)
	}
	for i := range im.Config.CPUs {
		g := phys.Registers{CPU: i, CR0: kernelCR0, CR3: uint64(dtb), CR4: 0x7506f0, RFLAGS: 0x246}
		if im.Config.LA57 {
			g.CR4 |= phys.CR4LA57
		}
		g.RIP = uint64(linuxText) + r.below(8*phys.PageSize)
		g.RSP = uint64(base) + 0x4000*uint64(i+1) - 0x100
		g.CS = phys.Segment{Selector: 0x10, Limit: 0xffffffff, Flags: 0xaf9b00}
		g.SS = phys.Segment{Selector: 0x18, Limit: 0xffffffff, Flags: 0xcf9300}
		g.GS = phys.Segment{Base: uint64(base) + 0x20000*uint64(i+1)}
		g.HasEFER, g.EFER = true, 0xd01
		g.IDT = phys.DescriptorTable{Base: uint64(linuxEntry), Limit: 0xfff}
		im.regs = append(im.regs, g)
	}
	return im.Fill(im.Config.Memory/8, Mix{Zero: 1, Text: 2, Structures: 2, Random: 1})
}
