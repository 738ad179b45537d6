package boot

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"testing"

	"snap/guest/phys"
)

// bare is the least that can be booted: a kernel half with descriptor tables,
// room for code, stacks and KUSER_SHARED_DATA, scattered over all of memory,
// the first MiB and the top of it included.
type bare struct {
	ram  phys.Runs
	mem  map[phys.PFN]*[phys.PageSize]byte
	root phys.Addr
	next phys.PFN
	va   phys.VirtAddr
	regs []phys.Registers
	code phys.VirtAddr
}

const (
	bareCode   phys.VirtAddr = 0xFFFFF801_23400000
	barePool   phys.VirtAddr = 0xFFFFC40F_00000000
	bareFirst  phys.VirtAddr = 0xFFFFF802_00000000
	bareCode64               = 0x00209B00_00000000
	bareData                 = 0x00CFF300_0000FFFF
)

func newBare(tb testing.TB, memory uint64, cpus int) *bare {
	tb.Helper()
	const low = 0x80000000
	ram := phys.Runs{{Base: 0, Pages: 0xA0}, {Base: 0x100, Pages: min(memory, low)/phys.PageSize - 0x100}}
	if memory > low {
		ram = append(ram, phys.Run{Base: fourGiB, Pages: (memory - low) / phys.PageSize})
	}
	b := &bare{ram: ram, mem: map[phys.PFN]*[phys.PageSize]byte{}, va: barePool}
	b.root = b.page().Addr()
	b.mapAt(tb, kuserVA, 1, true)
	b.code = bareCode
	b.mapAt(tb, b.code, 4, false)
	tables := b.mapAt(tb, bareFirst, 4*cpus, true)
	t := b.tables()
	for i := range cpus {
		gdt := tables + phys.VirtAddr(i*4)*phys.PageSize
		idt, stack := gdt+phys.PageSize, gdt+4*phys.PageSize-0x100
		g := make([]byte, 0x60)
		le.PutUint64(g[0x10:], bareCode64)
		le.PutUint64(g[0x18:], 0x00CF93000000FFFF)
		le.PutUint64(g[0x28:], bareData)
		tss := uint64(gdt) + 0x800
		le.PutUint64(g[0x40:], 0x67|tss&0xFFFFFF<<16|0x8B<<40|tss>>24&0xFF<<56)
		le.PutUint64(g[0x48:], tss>>32)
		le.PutUint64(g[0x50:], 0x0040F300_00003C00)
		if err := t.write(g, gdt); err != nil {
			tb.Fatal(err)
		}
		r := phys.Registers{
			CPU: i, RSP: uint64(stack) - uint64(i*16), R13: 0x1300 + uint64(i),
			CR0: 0x80050033, CR3: uint64(b.root), CR4: 0x370678, LSTAR: uint64(bareCode) + 0x100,
			KernelGSBase: 0x7FF0000 + uint64(i)<<12,
			GDT:          phys.DescriptorTable{Base: uint64(gdt), Limit: 0x57},
			IDT:          phys.DescriptorTable{Base: uint64(idt), Limit: 0xFFF},
		}
		r.CS.Selector, r.SS.Selector, r.TR.Selector = 0x10, 0x18, 0x40
		r.DS.Selector, r.ES.Selector, r.FS.Selector, r.GS.Selector = 0x2B, 0x2B, 0x53, 0x2B
		r.GS.Base = uint64(gdt) + 0x1000
		r.HasFPU = true
		r.FPU.FCW, r.FPU.MXCSR = 0x27F, 0x1F80
		r.FPU.XMM[6] = [16]byte{0x66, byte(i)}
		b.regs = append(b.regs, r)
	}
	return b
}

func (b *bare) tables() tables { return tables{im: b, root: b.root} }

// page takes the next page, now from low memory, now from anywhere, now from
// the top.
func (b *bare) page() phys.PFN {
	b.next++
	at := b.next * 0x9E3
	last := b.ram[len(b.ram)-1]
	switch b.next % 4 {
	case 0:
		at = 0x10 + b.next/4%0x80
	case 1:
		at = b.ram[1].End() - 1 - b.next
	case 2:
		at = last.Base + at%phys.PFN(last.Pages)
	default:
		at = 0x100 + at%0x8000
	}
	for b.mem[at] != nil {
		at++
	}
	b.mem[at] = new([phys.PageSize]byte)
	return at
}

func (b *bare) mapAt(tb testing.TB, v phys.VirtAddr, pages int, writable bool) phys.VirtAddr {
	tb.Helper()
	for i := range pages {
		v := v + phys.VirtAddr(i)*phys.PageSize
		table := b.root.PFN()
		for shift := 39; shift >= 12; shift -= 9 {
			e := b.mem[table][uint64(v)>>shift&511*8:]
			if le.Uint64(e) == 0 {
				le.PutUint64(e, uint64(b.page().Addr())|ptePresent|pteWritable)
				if shift == 12 && !writable {
					e[0] &^= pteWritable
				}
			}
			table = phys.Addr(le.Uint64(e) & pteAddress).PFN()
		}
	}
	return v
}

func (b *bare) RAM() phys.Runs                 { return b.ram }
func (b *bare) Registers() []phys.Registers    { return b.regs }
func (b *bare) Spare() (phys.VirtAddr, uint64) { return b.code, 4 * phys.PageSize }
func (b *bare) AllocPages(n int) (phys.VirtAddr, error) {
	v := b.va
	b.va += phys.VirtAddr(n+1) * phys.PageSize
	return b.mapAt(nil2{}, v, n, true), nil
}

// nil2 is a testing.TB for calls that can't fail.
type nil2 struct{ testing.TB }

func (nil2) Helper() {}

func (b *bare) Pages() iter.Seq2[phys.PFN, *[phys.PageSize]byte] {
	return func(yield func(phys.PFN, *[phys.PageSize]byte) bool) {
		for _, pfn := range slices.SortedFunc(maps.Keys(b.mem), cmp.Compare) {
			if !yield(pfn, b.mem[pfn]) {
				return
			}
		}
	}
}

func (b *bare) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	if !b.ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	for i := range p {
		p[i] = 0
		if page := b.mem[(at + phys.Addr(i)).PFN()]; page != nil {
			p[i] = page[(at + phys.Addr(i)).Offset()]
		}
	}
	return nil
}

func (b *bare) WritePhys(at phys.Addr, p []byte) error {
	for i := range p {
		b.mem[(at + phys.Addr(i)).PFN()][(at + phys.Addr(i)).Offset()] = p[i]
	}
	return nil
}
