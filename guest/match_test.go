package guest

import (
	"encoding/binary"
	"slices"
	"testing"

	"snap/phys"
)

// Three processors whose KPCRs are neighbours in flat memory.
const (
	pcr0 phys.VirtAddr = 0xFFFF_F800_0000_1000
	pcr1               = pcr0 + 0x1000
	pcr2               = pcr0 + 0x2000
)

// pcrSpace is a page table that maps the three KPCRs, with the given GDT and
// IDT bases in them.
func pcrSpace(gdt, idt [3]uint64) *AddressSpace {
	m := tables() // testVA+0x1000 is page 10, +0x2000 is page 8
	m.set(4, 3, 11<<12|userW)
	for i, page := range []int{10, 8, 11} {
		binary.LittleEndian.PutUint64(m.b[page<<12+amd64.layout.kpcrGdtBase:], gdt[i])
		binary.LittleEndian.PutUint64(m.b[page<<12+amd64.layout.kpcrIdtBase:], idt[i])
	}
	return NewAddressSpace(m, m.ram(), 0x1000)
}

func kernelCPU(gs phys.VirtAddr) phys.Registers {
	r := phys.Registers{HasKernelGSBase: true, KernelGSBase: 0x7FF0_0000}
	r.CS.Selector = 0x10
	r.GS.Base = uint64(gs)
	return r
}

func userCPU(gs uint64, kernelGS phys.VirtAddr) phys.Registers {
	r := phys.Registers{HasKernelGSBase: true, KernelGSBase: uint64(kernelGS)}
	r.CS.Selector = 0x33
	r.GS.Base = gs
	return r
}

func withTables(r phys.Registers, gdt, idt uint64) phys.Registers {
	r.GDT.Base, r.IDT.Base = gdt, idt
	return r
}

func TestMatch(t *testing.T) {
	gdt := [3]uint64{0xFFFF_F800_AAA0_0000, 0xFFFF_F800_AAA1_0000, 0xFFFF_F800_AAA2_0000}
	idt := [3]uint64{0xFFFF_F800_BBB0_0000, 0xFFFF_F800_BBB1_0000, 0xFFFF_F800_BBB2_0000}
	shared := [3]uint64{idt[0], idt[0], idt[2]}
	monitor := phys.Registers{} // in user mode, KernelGSBase not known
	monitor.CS.Selector = 0x33
	tests := []struct {
		name     string
		gdt, idt [3]uint64
		cpus     []phys.Registers
		want     []int // by processor
		warnings int
	}{
		{
			"kernel mode, in another order", gdt, idt,
			[]phys.Registers{kernelCPU(pcr2), kernelCPU(pcr0), kernelCPU(pcr1)},
			[]int{1, 2, 0},
			0,
		},
		{
			"user mode", gdt, idt,
			[]phys.Registers{userCPU(0x1000, pcr1), userCPU(0, pcr2), userCPU(0x7FF0_0000, pcr0)},
			[]int{2, 0, 1},
			0,
		},
		{
			"kernel mode before swapgs", gdt, idt,
			[]phys.Registers{
				func() phys.Registers { r := userCPU(0x7FF0_0000, pcr0); r.CS.Selector = 0x10; return r }(),
				kernelCPU(pcr1), kernelCPU(pcr2),
			},
			[]int{0, 1, 2},
			0,
		},
		{
			"a program sets its GS base to another processor's KPCR", gdt, idt,
			[]phys.Registers{userCPU(uint64(pcr1), pcr0), kernelCPU(pcr1), kernelCPU(pcr2)},
			[]int{0, 1, 2},
			0,
		},
		{
			"only the GDT tells", gdt, idt,
			[]phys.Registers{
				withTables(monitor, gdt[1], 0), withTables(monitor, gdt[2], 0), withTables(monitor, gdt[0], 0),
			},
			[]int{2, 0, 1},
			0,
		},
		{
			"only the IDT tells, and not of all",
			[3]uint64{},
			shared,
			[]phys.Registers{
				withTables(monitor, 1, shared[2]), withTables(monitor, 2, shared[0]), withTables(monitor, 3, shared[1]),
			},
			[]int{-1, -1, 0},
			4,
		},
		{
			"two hold the same KPCR, their GDTs tell them apart", gdt, idt,
			[]phys.Registers{
				withTables(kernelCPU(pcr0), gdt[1], 0), withTables(kernelCPU(pcr0), gdt[0], 0), kernelCPU(pcr2),
			},
			[]int{1, 0, 2},
			0,
		},
		{
			"more vCPUs than Windows uses", gdt, idt,
			[]phys.Registers{{}, kernelCPU(pcr2), kernelCPU(pcr1), kernelCPU(pcr0)},
			[]int{3, 2, 1},
			1,
		},
		{
			"nothing tells: not by index", gdt, idt,
			[]phys.Registers{{}, {}, {}},
			[]int{-1, -1, -1},
			6,
		},
		{"no registers", gdt, idt, nil, []int{-1, -1, -1}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &System{Space: pcrSpace(tt.gdt, tt.idt)}
			for i, kpcr := range []phys.VirtAddr{pcr0, pcr1, pcr2} {
				s.Processors = append(s.Processors, Processor{Number: i, KPCR: kpcr, VCPU: -1})
			}
			s.match(t.Context(), tt.cpus)
			var got []int
			for _, p := range s.Processors {
				got = append(got, p.VCPU)
			}
			if !slices.Equal(got, tt.want) || len(s.Warnings) != tt.warnings {
				t.Errorf("vCPUs by processor = %v, warnings %q; want %v and %d warnings", got, s.Warnings, tt.want, tt.warnings)
			}
		})
	}
}
