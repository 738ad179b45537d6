package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// Reason is a kind of cause for which Discover finds no Windows. It also is a class
// of errors: errors.Is(err, ReasonFirmware) holds for a *NotFoundError with that
// reason.
type Reason string

// Error implements error, with the word for programs.
func (r Reason) Error() string { return string(r) }

// Reasons, as a program may tell them apart.
const (
	ReasonUnreadable Reason = "unreadable"        // memory could not be read, so nothing is known
	ReasonFirmware   Reason = "firmware"          // the guest is in its BIOS or UEFI firmware, or in a boot loader
	Reason32Bit      Reason = "32-bit"            // its processors run in 32-bit mode, and no Windows is found
	ReasonEncrypted  Reason = "encrypted"         // its page tables are marked as encrypted memory
	ReasonKernel     Reason = "kernel"            // a Windows kernel is there, and isn't understood
	ReasonNoKernel   Reason = "no-kernel"         // Windows is there, but no image with a kernel's name
	ReasonLinux      Reason = "linux"             // it looks like Linux
	ReasonNested     Reason = "nested-hypervisor" // all processors are in a hypervisor that runs inside
	ReasonRAMMap     Reason = "ram-map"           // what looks like Windows' page tables leads out of the RAM map
	ReasonEnded      Reason = "ended"             // the search ended at a limit before all was looked at
	ReasonUnknown    Reason = "unknown"           // none of these
)

// diagnosis is a cause that can be recognised.
type diagnosis struct {
	reason Reason
	// why says in words how it is recognised, for the end of a sentence; empty if
	// it isn't the cause.
	why func(context.Context, *discovery) string
	// certain: where processors are in that state no Windows runs, and what
	// memory still holds of one is of an earlier boot. It is asked first, and
	// nothing is searched.
	certain bool
}

// diagnoses returns the causes, the likeliest first: what is certain, then what
// speaks of Windows, then what speaks of something else.
func diagnoses() []diagnosis {
	return []diagnosis{
		{ReasonFirmware, inBIOS, true},
		{ReasonFirmware, inUEFI, true},
		{ReasonEncrypted, isEncrypted, false},
		{ReasonKernel, hasOddKernel, false},
		{ReasonEnded, searchEnded, false},
		{ReasonNoKernel, hasNoKernel, false},
		{ReasonLinux, looksLikeLinux, false},
		{ReasonNested, inNestedHypervisor, false},
		{ReasonRAMMap, isAstray, false},
		{Reason32Bit, in32Bit, false},
		{ReasonUnknown, isUnknown, false},
	}
}

// diagnose returns the likeliest cause, of those that are certain only if so
// asked; then there may be none.
func (d *discovery) diagnose(ctx context.Context, certain bool) (Reason, string) {
	for _, c := range diagnoses() {
		if certain && !c.certain {
			continue
		}
		if why := c.why(ctx, d); why != "" {
			return c.reason, why
		}
	}
	return "", ""
}

func inBIOS(_ context.Context, d *discovery) string {
	switch mode, cpu := furthest(d.cpus); mode {
	case modeReal:
		return "the guest is in its firmware or a boot loader: all its processors are in real mode"
	case modeUnpaged:
		return fmt.Sprintf("the guest is in its firmware or a boot loader: vCPU %d is in protected mode and uses no page tables", cpu.CPU)
	}
	return ""
}

func in32Bit(_ context.Context, d *discovery) string {
	mode, cpu := furthest(d.cpus)
	if mode != modePaged32 {
		return ""
	}
	kind := "without PAE"
	if cpu.CR4&cr4PAE != 0 {
		kind = "PAE"
	}
	return fmt.Sprintf("32-bit guest that isn't Windows, or not yet: vCPU %d runs in 32-bit mode (%s page tables), and no page table of its processors or in its memory maps what Windows maps", cpu.CPU, kind)
}

// inUEFI: UEFI firmware and boot loaders run with page tables that map memory at
// its own address and leave the kernel's half empty (UEFI specification, 2.3.4).
// Every processor in long mode must run by such tables, and be mapped by them.
func inUEFI(ctx context.Context, d *discovery) string {
	if mode, _ := furthest(d.cpus); mode != modeLong {
		return ""
	}
	var first *phys.Registers
	for i := range d.cpus {
		c := &d.cpus[i]
		if modeOf(c) != modeLong {
			continue
		}
		if !d.identityOnly(ctx, c) {
			return ""
		}
		if first == nil {
			first = c
		}
	}
	return fmt.Sprintf("the guest is in its UEFI firmware or a boot loader: the page tables of vCPU %d (CR3 %#x) map no kernel's addresses",
		first.CPU, uint64(first.PageTableRoot()))
}

// identityOnly reports whether a processor in long mode runs at an address that
// is its own physical address, by tables without any entry for a kernel.
func (d *discovery) identityOnly(ctx context.Context, c *phys.Registers) bool {
	space := d.spaceOf(c)
	t, err := space.table(ctx, space.root, space.paging.top)
	if err != nil {
		return false
	}
	for _, e := range t.entries[space.paging.kernelEntry():] {
		if e&space.paging.present != 0 {
			return false
		}
	}
	m, err := space.Translate(ctx, c.ProgramCounter())
	return err == nil && uint64(m.Addr) == uint64(c.ProgramCounter())
}

// spaceOf returns the address space of a processor in long mode.
func (d *discovery) spaceOf(c *phys.Registers) *AddressSpace {
	return d.arch.AddressSpace(d.arch.pagingsOf(c)[0], d.mem, d.ram, c.PageTableRoot())
}

// isEncrypted: under SEV, page table addresses have the C-bit set, bit 47 or 51
// (AMD64 manual volume 2, 15.34.1; CPUID 8000_001F tells the host which).
func isEncrypted(_ context.Context, d *discovery) string {
	for i := range d.cpus {
		c := &d.cpus[i]
		root := c.PageTableRoot()
		if len(d.arch.pagingsOf(c)) == 0 || d.ram.Has(root.PFN()) {
			continue
		}
		for _, bit := range []uint{47, 51} {
			if plain := root &^ (1 << bit); plain != root && plain != 0 && d.ram.Has(plain.PFN()) {
				return fmt.Sprintf("its memory is encrypted for the host: CR3 of vCPU %d, %#x, has the C-bit %d of SEV set", c.CPU, uint64(root), bit)
			}
		}
	}
	return ""
}

func hasOddKernel(_ context.Context, d *discovery) string {
	for _, p := range d.search.passed.list {
		if p.Kernel {
			return "a Windows kernel is there, but not understood: " + p.String() + d.andEnded()
		}
	}
	return ""
}

func hasNoKernel(_ context.Context, d *discovery) string {
	if !d.windows {
		return ""
	}
	const there = "Windows' KUSER_SHARED_DATA is there, but no image that is named as a kernel"
	for _, p := range d.search.passed.list {
		if p.Size > 0 {
			return there + "; the largest is the " + p.String() + d.andEnded()
		}
	}
	return there + ": it may be starting, or its page tables can't be reached"
}

// andEnded says at the end of a sentence that not all was looked at, if so.
func (d *discovery) andEnded() string {
	if !d.anyEnded {
		return ""
	}
	return " (the search ended at its limits: not everything was looked at)"
}

// Where Linux has its kernel's text, and its interrupt table: in the area of
// each processor's entry code, before 4.15 in the fixed mappings
// (Documentation/arch/x86/x86_64/mm.rst).
const (
	linuxTextLow, linuxTextHigh phys.VirtAddr = 0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_C000_0000
	linuxEntryArea              phys.VirtAddr = 0xFFFF_FE00_0000_0000
	linuxFixedLow               phys.VirtAddr = 0xFFFF_FFFF_FF00_0000
)

// looksLikeLinux: the interrupt table is where only Linux has it, and its first
// handler lies in what is Linux' text.
func looksLikeLinux(ctx context.Context, d *discovery) string {
	for i := range d.cpus {
		c := &d.cpus[i]
		idt := phys.VirtAddr(c.IDT.Base)
		if modeOf(c) != modeLong || idt != linuxEntryArea && idt < linuxFixedLow {
			continue
		}
		space := d.spaceOf(c)
		var gate [16]byte
		if space.ReadVirt(ctx, gate[:], idt) != nil {
			continue
		}
		if at := phys.VirtAddr(gateOffset(&gate)); at >= linuxTextLow && at < linuxTextHigh {
			return fmt.Sprintf("it looks like Linux: vCPU %d takes interrupts at %#x", c.CPU, uint64(at))
		}
	}
	return ""
}

// inNestedHypervisor: who runs a hypervisor has its instructions turned on.
func inNestedHypervisor(_ context.Context, d *discovery) string {
	long := 0
	for i := range d.cpus {
		c := &d.cpus[i]
		if modeOf(c) != modeLong {
			continue
		}
		long++
		if c.CR4&cr4VMX == 0 && (!c.HasEFER || c.EFER&eferSVM == 0) {
			return ""
		}
	}
	if long == 0 {
		return ""
	}
	return "all its processors are in a hypervisor that runs inside the guest, and no Windows is found beside it"
}

// isAstray: where a guest has its RAM decides what its page tables lead to.
func isAstray(_ context.Context, d *discovery) string {
	if d.astray == "" {
		return ""
	}
	return d.astray + ": the RAM map can't be right, or this is left of an earlier boot"
}

// leadsAstray says why a candidate that is no Windows' looks like the page table of one
// by a wrong RAM map: Windows' low stub names it, or it maps itself, and it leads to
// no RAM, or where KUSER_SHARED_DATA must be, to something else. Else it is empty.
func (d *discovery) leadsAstray(ctx context.Context, c candidate) string {
	if !d.ram.Has(c.root.PFN()) {
		if !c.named {
			return ""
		}
		return fmt.Sprintf("a %s names the page table %#x, which is no RAM", c.from, uint64(c.root))
	}
	page := make([]byte, phys.PageSize)
	like := func(p *Paging) bool { return p.selfMapped(page, c.root) }
	if d.mem.ReadPhys(ctx, page, c.root&^(phys.PageSize-1)) != nil || !slices.ContainsFunc(c.pagings, like) {
		if !c.named {
			return ""
		}
		return fmt.Sprintf("a %s names the page table %#x, where there is none of Windows'", c.from, uint64(c.root))
	}
	for _, p := range c.pagings {
		m, err := d.arch.AddressSpace(p, d.mem, d.ram, c.root).Translate(ctx, d.arch.kuser)
		switch {
		case errors.Is(err, phys.ErrNotRAM) || err == nil && !d.ram.Has(m.Addr.PFN()):
			return fmt.Sprintf("the page table %#x maps itself as only Windows' do, but KUSER_SHARED_DATA where there is no RAM", uint64(c.root))
		case err == nil || c.named:
			return fmt.Sprintf("the page table %#x maps itself as only Windows' do, but has something else where KUSER_SHARED_DATA must be", uint64(c.root))
		}
	}
	return ""
}

func searchEnded(_ context.Context, d *discovery) string {
	if !d.anyEnded {
		return ""
	}
	return "the search ended at its limits, for the guest has more page tables or images than any Windows; it is not known what is beyond"
}

func isUnknown(_ context.Context, d *discovery) string {
	if len(d.cpus) == 0 {
		return "no page table in its memory maps what Windows maps, and its processors' registers are not known"
	}
	return "no page table of its processors or in its memory maps what Windows maps"
}
