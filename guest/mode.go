package guest

import "snap/phys"

// Bits of control registers and of EFER (Intel SDM volume 3, 2.5 and 2.2.1; AMD64
// manual volume 2, 3.1.7).
const (
	cr0ProtectedMode = 1 << 0
	cr0Paging        = 1 << 31
	cr4PAE           = 1 << 5
	cr4VMX           = 1 << 13
	eferLongMode     = 1 << 10 // LMA: active, not only enabled
	eferSVM          = 1 << 12

	// csLong is the L bit of a code segment's descriptor, of the doubleword that
	// phys.Segment has.
	csLong = 1 << 21
)

// cpuMode is how far an x86 processor has got since its reset.
type cpuMode int

// Modes; each is further from a reset than those before it.
const (
	modeUnknown cpuMode = iota // its registers aren't known
	modeReal                   // also a processor that was never started
	modeUnpaged                // protected, without page tables
	modePaged32                // 32-bit page tables, PAE or not
	modeLong                   // 64-bit page tables, whatever code runs by them
	cpuModes
)

// modeOf returns the mode of a processor. Sources that don't tell EFER leave it
// to other registers: only in long mode can code be of 64 bits and tables lie
// beyond 4 GiB.
func modeOf(c *phys.Registers) cpuMode {
	switch {
	case c.CR0 == 0: // bit 4 is set in every processor
		return modeUnknown
	case c.CR0&cr0ProtectedMode == 0:
		return modeReal
	case c.CR0&cr0Paging == 0:
		return modeUnpaged
	case c.CR4&cr4PAE == 0: // long mode demands it
		return modePaged32
	case c.HasEFER && c.EFER&eferLongMode == 0:
		return modePaged32
	case c.HasEFER:
		return modeLong
	case c.CS.Flags&csLong != 0 || (c.RIP|c.IDT.Base|c.GDT.Base)>>32 != 0:
		return modeLong
	case c.CS.Flags == 0:
		return modeUnknown
	}
	return modePaged32
}

// furthest returns the furthest mode of the processors and the first that is in
// it: modeUnknown if any of them may page in an unknown mode, or if there are none.
// One of whose control registers nothing is known says nothing either way.
func furthest(cpus []phys.Registers) (mode cpuMode, cpu *phys.Registers) {
	for i := range cpus {
		m := modeOf(&cpus[i])
		if m == modeUnknown && cpus[i].CR3|cpus[i].CR4 == 0 {
			continue
		}
		if m == modeUnknown {
			return modeUnknown, nil
		}
		if m > mode {
			mode, cpu = m, &cpus[i]
		}
	}
	return mode, cpu
}
