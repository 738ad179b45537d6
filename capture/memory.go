package capture

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"snap/phys"
)

// DumpedMemory says which of the guest's RAM a dump is made of.
type DumpedMemory struct {
	RAM phys.Runs // the RAM map

	// Unlisted is the RAM that nt!MmPhysicalMemoryBlock doesn't name: what firmware
	// keeps for itself, and what Windows was told not to use, or hides. It is nil
	// where the block can't be read.
	Unlisted phys.Runs
	// Hidden is as much of it as isn't in the dump.
	Hidden phys.Runs
	// Lost are the pages that the guest had and the source hasn't: they can't be in
	// the dump (hv.PartialMemory).
	Lost uint64
	// Suspicious: more is unlisted than firmware plausibly keeps, and the operator
	// didn't ask for all RAM.
	Suspicious bool
}

// What firmware may keep of a guest's RAM before it is suspicious: mostFirmware
// pages, and in small guests 1/firmwareShare of RAM.
//
// SeaBIOS keeps less than 1 MiB: the shadowed ROMs, the first page, the last of
// conventional memory, ACPI tables at the top of low memory. OVMF with Secure Boot
// and S3 keeps some 40 MiB: 16 MiB of SMRAM (the default of q35's extended TSEG),
// 12 MiB for its own image, as much again to unpack it, and a few MiB of runtime
// services and ACPI (OvmfPkg/PlatformPei, QEMU hw/pci-host/q35.c). It is for
// guests of 1 GiB and more.
const (
	mostFirmware  = 64 << 20 >> phys.PageShift
	firmwareShare = 16
)

// Where QEMU puts the memory of PCI devices, such as graphics, which some formats
// hold as if it were RAM: above the first 16 MiB, where RAM begins to be in one
// piece, and below 4 GiB.
const (
	devicesFrom phys.PFN = 16 << 20 >> phys.PageShift
	devicesTo   phys.PFN = 4 << 30 >> phys.PageShift
)

// localAPIC is the page of the processors' interrupt controllers, which no PC has RAM
// at (Intel SDM volume 3, 11.4.1). A map that has it is of a file that holds all
// physical addresses, RAM or not.
const localAPIC phys.PFN = 0xfee00

// chooseMemory decides which pages the dump is made of, before any is left out.
// needed are the pages without which it could not be opened.
//
// That is what MmPhysicalMemoryBlock names, as in Windows' own dumps, or all RAM if
// the operator asks for it. It is all RAM too where the block is no list of
// Windows' memory: it can't be read, or leaves out what Windows runs on at this
// moment.
func (a *Analysis) chooseMemory(ram, needed phys.Runs, all bool) phys.Known[[]phys.Run] {
	a.Memory = DumpedMemory{RAM: ram}
	block, err := phys.NewRuns(a.System.PhysicalMemory.Value...)
	if err != nil {
		panic("internal error: a block in RAM: " + err.Error())
	}
	if len(block) > 0 {
		a.Memory.Unlisted = ram.Minus(block)
	}
	if all {
		return phys.Know([]phys.Run(ram), "RAM map")
	}
	a.Memory.judge()
	switch missing := needed.Minus(block); {
	case len(block) > 0 && len(missing) == 0:
		a.Memory.Hidden = a.Memory.Unlisted
	case len(block) > 0:
		a.warnOfContents("MmPhysicalMemoryBlock leaves out %s that Windows runs on, the first at %#x: it isn't believed",
			counted(missing.Pages(), "page"), uint64(missing[0].Base.Addr()))
		a.System.PhysicalMemory = phys.Known[[]phys.Run]{}
	}
	runs, warning := a.System.DumpMemory()
	if warning != "" {
		a.warnOfContents("%s", warning)
	}
	return runs
}

// judge decides whether what is unlisted is suspicious.
func (m *DumpedMemory) judge() {
	limit := min(mostFirmware, m.RAM.Pages()/firmwareShare)
	m.Suspicious = m.Unlisted.Minus(m.devices()).Pages() > limit
}

// devices returns what in the RAM map is no RAM, as far as can be told: what is as
// apart from all else as the memory of a device is, if nothing of it is Windows', and
// what isn't listed around the local APIC.
func (m *DumpedMemory) devices() phys.Runs {
	var out phys.Runs
	for _, r := range m.RAM {
		if r.Base >= devicesFrom && r.End() <= devicesTo && len(phys.Runs{r}.Minus(m.Unlisted)) == 0 {
			out = append(out, r)
		}
	}
	if i, ok := m.Unlisted.Find(localAPIC); ok {
		out = out.Union(phys.Runs{m.Unlisted[i]})
	}
	return out
}

// warnOfHidden says so if the guest hides memory. left are the pages that stay out
// because they were asked to, of limit at most.
func (a *Analysis) warnOfHidden(left, limit uint64) {
	m := &a.Memory
	if !m.Suspicious || len(m.Hidden) == 0 {
		return
	}
	hidden, share := m.Hidden.Pages(), ""
	if limit == 0 {
		limit = m.RAM.Pages() / 2 // exclude's default
	}
	if hidden+left > limit {
		share = fmt.Sprintf(", with the pages that are left out more than --max-excluded allows (%s)", humanize.IBytes(limit<<phys.PageShift))
	}
	a.warnOfContents("%s of the guest's %s of RAM are in no range of MmPhysicalMemoryBlock and not in the dump%s: firmware keeps less; the guest hides memory, or has memory that Windows doesn't use, such as hot-plugged; --all-ram puts it into the dump",
		humanize.IBytes(hidden<<phys.PageShift), humanize.IBytes(m.RAM.Pages()<<phys.PageShift), share)
}
