package ntlab

import (
	"fmt"

	"snap/phys"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	largePages = 512       // 4 KiB pages in a 2 MiB one
	hugePages  = 512 * 512 // in a 1 GiB one

	// A PC's RAM up to 1 MiB: 640 KiB, then the VGA window, then 256 KiB that
	// firmware shadows into RAM (QEMU hw/i386/pc.c, hw/pci-host/pam.c).
	vgaHole    phys.PFN = 0xA0
	shadowROM  phys.PFN = 0xC0
	highMemory phys.PFN = 0x100
	fourGiB    phys.PFN = 0x100000

	// The extended BIOS data area takes the last KiB below 640 KiB
	// (SeaBIOS's e820 map: 0x9fc00), so its page is not Windows' to use.
	ebda phys.PFN = 0x9F

	// firmwareTop is what this image's firmware keeps at the top of low RAM
	// for ACPI tables and its own use.
	firmwareTop = mib >> phys.PageShift
)

// below4G returns how much of a guest's RAM lies below 4 GiB.
// Source: QEMU hw/i386/pc_q35.c and hw/i386/pc_piix.c.
func below4G(machine string, memory uint64) (uint64, error) {
	switch machine {
	case "q35":
		if memory >= 0xb0000000 {
			return 0x80000000, nil
		}
	case "i440fx":
		if memory >= 0xe0000000 {
			return 0xc0000000, nil
		}
	default:
		return 0, fmt.Errorf("machine %q is neither q35 nor i440fx", machine)
	}
	return memory, nil
}

// pluggable returns where a PC has room for RAM that is plugged in: above all other,
// at a multiple of 1 GiB (QEMU hw/i386/pc.c).
func pluggable(end phys.PFN) phys.PFN {
	return (max(end, fourGiB) + hugePages - 1) / hugePages * hugePages
}

// ramMap returns the guest's RAM and the runs of MmPhysicalMemoryBlock in it.
// Pages that firmware keeps are RAM but in no run.
func ramMap(machine string, memory, plugged uint64) (ram phys.Runs, windows []phys.Run, err error) {
	low, err := below4G(machine, memory)
	if err != nil {
		return nil, nil, err
	}
	lowEnd := phys.Addr(low).PFN()
	parts := []phys.Run{{Base: 0, Pages: uint64(vgaHole)}, span(shadowROM, lowEnd)}
	windows = []phys.Run{span(1, ebda), span(highMemory, lowEnd-firmwareTop)}
	if high := memory - low; high > 0 {
		r := phys.Run{Base: fourGiB, Pages: high >> phys.PageShift}
		parts, windows = append(parts, r), append(windows, r)
	}
	if plugged > 0 {
		at := pluggable(parts[len(parts)-1].End())
		parts = append(parts, phys.Run{Base: at, Pages: plugged >> phys.PageShift})
	}
	ram, err = phys.NewRuns(parts...)
	return ram, windows, err
}

func span(from, to phys.PFN) phys.Run { return phys.Run{Base: from, Pages: uint64(to - from)} }
