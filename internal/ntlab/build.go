package ntlab

import (
	"errors"
	"fmt"

	"snap/phys"
)

// Limits and defaults of Config.
const (
	DefaultMemory = 256 * mib
	MinMemory     = 64 * mib
	MaxMemory     = 16 << 40
	DefaultCPUs   = 4
	MaxCPUs       = 512
)

// Build makes the image that c describes.
func Build(c Config) (im *Image, err error) {
	p, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("build lab image: %w", err)
	}
	ram, windows, err := ramMap(c.Machine, c.Memory, c.HotPlug)
	if err != nil {
		return nil, fmt.Errorf("build lab image: %w", err)
	}
	alloc, err := newAllocator(stream(c.Seed, 'a'), windows)
	if err != nil {
		return nil, fmt.Errorf("build lab image: %w", err)
	}
	im = &Image{
		Config: c, mem: newSparse(ram.End()), ram: ram, alloc: alloc, tables: c.tablesOf(p),
		symbols: map[string]phys.VirtAddr{},
	}
	im.Truth.Runs = windows
	b := &builder{Image: im, p: p}
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(failure)
			if !ok {
				panic(r)
			}
			im, err = nil, fmt.Errorf("build lab image of %d MiB: %w", c.Memory/mib, f.error)
		}
	}()
	b.build()
	return im, nil
}

// complete fills in the defaults and checks the rest.
func (c *Config) complete() (*profile, error) {
	if c.Profile == "" {
		c.Profile = profiles[0].name
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.CPUs == 0 {
		c.CPUs = DefaultCPUs
	}
	if c.Machine == "" {
		c.Machine = "q35"
	}
	p, err := findProfile(c.Profile)
	switch {
	case err != nil:
		return nil, err
	case c.Memory%(2*mib) != 0 || c.Memory < MinMemory || c.Memory > MaxMemory:
		return nil, fmt.Errorf("memory of %d bytes is no multiple of 2 MiB from %d MiB to %d TiB", c.Memory, MinMemory/mib, MaxMemory>>40)
	case c.CPUs < 1 || c.CPUs > min(MaxCPUs, p.processor.maxProcessors):
		return nil, fmt.Errorf("%d processors; %s takes 1 to %d", c.CPUs, p.name, min(MaxCPUs, p.processor.maxProcessors))
	case c.HotPlug%(2*mib) != 0 || c.HotPlug > MaxMemory:
		return nil, fmt.Errorf("%d bytes of plugged memory are no multiple of 2 MiB up to %d TiB", c.HotPlug, MaxMemory>>40)
	case c.Unreadable%phys.PageSize != 0 || c.Unreadable > c.Memory/2:
		return nil, fmt.Errorf("%d unreadable bytes are no multiple of 4 KiB up to half of memory", c.Unreadable)
	case c.TablesAbove > 0 && (c.TablesAbove%phys.PageSize != 0 || c.TablesAbove >= c.Memory):
		return nil, fmt.Errorf("tables above %#x: no multiple of 4 KiB within memory", c.TablesAbove)
	case c.VBS && (p.fixedLayout || p.build < buildWin10):
		return nil, errors.New("profile " + p.name + " is of a Windows without a secure kernel")
	case c.LA57 && (p.fixedLayout || p.row != nil && p.build < buildLA57):
		return nil, errors.New("profile " + p.name + " is of a Windows older than 5-level paging")
	case c.FarKernel && !c.LA57:
		return nil, errors.New("a kernel elsewhere in its half, without 5-level paging")
	case c.KPTI && p.process.userDirectoryTable == 0:
		return nil, errors.New("profile " + p.name + " has no KVA shadow")
	}
	if err := c.check32(p); err != nil {
		return nil, err
	}
	return p, c.checkKDBG(p)
}

// checkKDBG fails where this kernel's KDBG can't be as c says.
func (c *Config) checkKDBG(p *profile) error {
	switch {
	case c.PlainKDBG && (c.EncodeKDBG || c.HalfDecodedKDBG != 0):
		return errors.New("a KDBG that is plain is not encoded")
	case c.HalfDecodedKDBG%8 != 0 || c.HalfDecodedKDBG >= p.kdbg.size:
		return fmt.Errorf("the first %#x of the KDBG's %#x bytes can't be decoded alone", c.HalfDecodedKDBG, p.kdbg.size)
	case c.HalfDecodedKDBG != 0 && !c.EncodeKDBG && !p.encrypts:
		return errors.New("profile " + p.name + " keeps no KDBG encoded")
	case c.StraddleKDBG && p.kdbgIsFixed():
		return errors.New("profile " + p.name + " has its KDBG where the real kernel has it, within a page")
	}
	return nil
}

// builder is an image in the making. Its methods panic with a failure when
// the guest's memory is full; Build turns that into an error.
type builder struct {
	*Image
	p      *profile
	lay    layout
	kernel peImage
	procs  []*process
	blocks []phys.PFN // 2 MiB pages set aside before single pages are scattered
	huge   phys.PFN   // the same of 1 GiB, 0 for none
}

type failure struct{ error }

func check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func (b *builder) build() {
	b.lay = b.machine().chooseLayout(b)
	b.setBlocksAside()
	b.makeSystemSpace()
	b.placeKernel()
	b.placeKUSER()
	b.placeProcessors()
	b.placeProcesses()
	b.placeThreads()
	b.placeModules()
	b.placeMemoryBlock()
	b.placeKDBG()
	b.placeOddPages()
	b.placeLowStub()
	b.placeDummy()
	b.shareKernelHalves()
	b.fillRegisters()
	b.enterHypervisor()
	b.placeCrash()
	for _, p := range b.blocks {
		b.alloc.release(p, b.largeBlock())
	}
	b.loseMemory()
}

// lostPages is how many pages at most lie in a row that can't be read.
const lostPages = 16

// loseMemory takes free pages, all over memory, so that they can't be read.
func (b *builder) loseMemory() {
	left := b.Config.Unreadable >> phys.PageShift
	r := stream(b.Config.Seed, 'h')
	var lost []phys.Run
	for free := b.freeRuns(); left > 0 && len(free) > 0; {
		i := r.below(uint64(len(free)))
		run := free[i]
		run.Base += phys.PFN(r.below(run.Pages))
		run.Pages = min(uint64(free[i].End()-run.Base), left, lostPages)
		left -= run.Pages
		lost = append(lost, run)
		free = free.Minus(phys.Runs{run})
	}
	if left > 0 {
		check(errNoMemory)
	}
	b.gone = must(phys.NewRuns(lost...))
	b.alloc.remove(b.gone)
}

// setBlocksAside takes the large pages first: afterwards small ones lie
// everywhere.
func (b *builder) setBlocksAside() {
	const pfnDatabase, cache = 1, 1
	n := pfnDatabase + cache
	if b.largePages() {
		n += int(b.p.sizeOfImage>>21) + 1
	}
	if b.Config.Memory >= minHuge {
		b.huge = must(b.alloc.block(hugePages))
	}
	for range n {
		b.blocks = append(b.blocks, must(b.alloc.block(b.largeBlock())))
	}
}

// largeBlock returns how many 4 KiB pages a large one has.
func (b *builder) largeBlock() uint64 { return 1 << (b.tables.shifts[2] - phys.PageShift) }

// largePages reports whether the kernel is mapped by pages of 2 MiB.
func (b *builder) largePages() bool {
	return b.p.largePages && !b.Config.SmallPages && !b.Config.UnalignedKernel
}

func (b *builder) block2M() phys.PFN {
	p := b.blocks[0]
	b.blocks = b.blocks[1:]
	return p
}

// put writes to the System process's virtual memory, which must be mapped.
func (b *builder) put(va phys.VirtAddr, p []byte) { check(b.WriteVirt(va, p)) }

func (b *builder) put64(va phys.VirtAddr, v uint64) {
	var p [8]byte
	le.PutUint64(p[:], v)
	b.put(va, p[:])
}

func (b *builder) put32(va phys.VirtAddr, v uint32) {
	var p [4]byte
	le.PutUint32(p[:], v)
	b.put(va, p[:])
}

func (b *builder) put16(va phys.VirtAddr, v uint16) {
	b.put(va, []byte{byte(v), byte(v >> 8)})
}

// list makes the doubly linked list of head and the entries (addresses of
// LIST_ENTRYs).
func (b *builder) list(head phys.VirtAddr, entries ...phys.VirtAddr) {
	ring := append([]phys.VirtAddr{head}, entries...)
	for i, e := range ring {
		b.putPointer(e, uint64(ring[(i+1)%len(ring)]))
		b.putPointer(e+phys.VirtAddr(b.machine().word), uint64(ring[(i+len(ring)-1)%len(ring)]))
	}
}
