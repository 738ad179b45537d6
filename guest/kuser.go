package guest

import (
	"context"
	"unicode/utf16"

	"snap/phys"
)

// Offsets in KUSER_SHARED_DATA (ntddk.h, "KUSER_SHARED_DATA" at
// learn.microsoft.com).
const (
	kuserInterruptTime        = 0x008
	kuserSystemTime           = 0x014
	kuserImageNumberLow       = 0x02C
	kuserNtSystemRoot         = 0x030
	kuserNtBuildNumber        = 0x260
	kuserNtProductType        = 0x264
	kuserNtMajorVersion       = 0x26C
	kuserNtMinorVersion       = 0x270
	kuserBootID               = 0x2C4
	kuserSuiteMask            = 0x2D0
	kuserKdDebuggerEnabled    = 0x2D4
	kuserNumberOfPhysPages    = 0x2E8
	kuserActiveProcessorCount = 0x3C0
	kuserSize                 = 0x3C8 // up to what is used here

	kuserSystemRootChars = 260
)

// maxVersion is more than any Windows to come will have in its version: all since 2015
// are 10.0.
const maxVersion = 31

// timeReads bounds how often a time that is being changed is read again. The
// kernel changes it within nanoseconds, so a second read nearly always does.
const timeReads = 16

// KUSER is what a dump needs of KUSER_SHARED_DATA. Fields that a Windows
// version doesn't have are 0.
type KUSER struct {
	InterruptTime         uint64 // time since boot, in 100 ns units
	SystemTime            uint64 // FILETIME: 100 ns units since 1601-01-01 UTC
	ImageNumberLow        uint16 // IMAGE_FILE_MACHINE of the kernel
	NtSystemRoot          string // such as C:\Windows
	NtBuildNumber         uint32 // Windows 10 and later
	NtProductType         uint32 // 1 workstation, 2 domain controller, 3 server
	NtMajorVersion        uint32
	NtMinorVersion        uint32
	BootID                uint32 // likewise
	SuiteMask             uint32
	KdDebuggerEnabled     uint8
	NumberOfPhysicalPages uint32
	ActiveProcessorCount  uint32 // Windows 7 and later
}

// InterruptTime returns the guest-physical address of the time since boot in
// KUSER_SHARED_DATA: 8 bytes that change with every tick of the guest's clock.
func (s *System) InterruptTime(ctx context.Context) (phys.Addr, error) {
	m, err := s.Space.Translate(ctx, s.Space.arch.kuser+kuserInterruptTime)
	return m.Addr, err
}

// ReadKUSER reads KUSER_SHARED_DATA. It fails with ErrMalformed on a page that
// no Windows for the architecture of mem would have there.
func ReadKUSER(ctx context.Context, mem VirtReader) (KUSER, error) {
	k, err := readKUSER(ctx, archOf(mem), mem)
	if err == nil {
		err = k.readTimes(ctx, archOf(mem), mem)
	}
	if err != nil {
		return KUSER{}, err
	}
	return k, nil
}

// readTimes reads the times. One that can't be read stays 0: the error is about the
// last of them.
func (k *KUSER) readTimes(ctx context.Context, arch *Arch, mem VirtReader) error {
	var systemErr, interruptErr error
	k.InterruptTime, interruptErr = readTime(ctx, mem, "InterruptTime", arch.kuser+kuserInterruptTime)
	k.SystemTime, systemErr = readTime(ctx, mem, "SystemTime", arch.kuser+kuserSystemTime)
	if systemErr != nil {
		return systemErr
	}
	return interruptErr
}

// readKUSER is ReadKUSER without the times, which nothing is recognised by.
func readKUSER(ctx context.Context, arch *Arch, mem VirtReader) (KUSER, error) {
	r, err := readRecord(ctx, mem, "KUSER_SHARED_DATA", arch.kuser, kuserSize)
	if err != nil {
		return KUSER{}, err
	}
	k := KUSER{
		ImageNumberLow:        r.u16(kuserImageNumberLow),
		NtBuildNumber:         r.u32(kuserNtBuildNumber),
		NtProductType:         r.u32(kuserNtProductType),
		NtMajorVersion:        r.u32(kuserNtMajorVersion),
		NtMinorVersion:        r.u32(kuserNtMinorVersion),
		BootID:                r.u32(kuserBootID),
		SuiteMask:             r.u32(kuserSuiteMask),
		KdDebuggerEnabled:     r.u8(kuserKdDebuggerEnabled),
		NumberOfPhysicalPages: r.u32(kuserNumberOfPhysPages),
		ActiveProcessorCount:  r.u32(kuserActiveProcessorCount),
		NtSystemRoot:          wideString(r.bytes(kuserNtSystemRoot, 2*kuserSystemRootChars)),
	}
	if r.err != nil {
		return KUSER{}, r.err
	}
	if err := k.check(arch, r); err != nil {
		return KUSER{}, err
	}
	k.forgetLater()
	return k, nil
}

// forgetLater drops what this Windows has no field for: the structure ended before
// ActiveProcessorCount up to 6.0 (0x378 bytes in Server 2003, 0x3B8 in Vista), and up
// to 6.3 something else was where NtBuildNumber and BootId are (public ntkrnlmp
// symbols).
func (k *KUSER) forgetLater() {
	if k.NtMajorVersion < 6 || k.NtMajorVersion == 6 && k.NtMinorVersion == 0 {
		k.ActiveProcessorCount = 0
	}
	if k.NtMajorVersion < 10 {
		k.NtBuildNumber, k.BootID = 0, 0
	}
}

// check tells a KUSER_SHARED_DATA from any other page.
func (k *KUSER) check(arch *Arch, r *record) error {
	root := k.NtSystemRoot
	switch {
	case k.ImageNumberLow != arch.machine:
		return malformed(r.what, r.at, "machine %#x, not that of %s", k.ImageNumberLow, arch.name)
	case k.NtMajorVersion < 5 || k.NtMajorVersion > maxVersion || k.NtMinorVersion > maxVersion:
		return malformed(r.what, r.at, "version %d.%d", k.NtMajorVersion, k.NtMinorVersion)
	case k.NtProductType < 1 || k.NtProductType > 3:
		return malformed(r.what, r.at, "product type %d", k.NtProductType)
	case len(root) < 3 || root[0]|0x20 < 'a' || root[0]|0x20 > 'z' || root[1:3] != `:\`:
		return malformed(r.what, r.at, "system root %.64q", root)
	}
	return nil
}

// readTime reads a KSYSTEM_TIME {LowPart, High1Time, High2Time}. Its writer
// sets High2Time, LowPart and High1Time in this order, so a reader that goes
// the other way has a whole value when both high parts agree (KSYSTEM_TIME,
// ntddk.h). Three reads, because one read gives no order; mem must not give what was
// read before.
func readTime(ctx context.Context, mem VirtReader, what string, at phys.VirtAddr) (uint64, error) {
	for range timeReads {
		var part [3]uint32 // High1Time, LowPart, High2Time
		for i, off := range []phys.VirtAddr{4, 0, 8} {
			v, err := readU32(ctx, mem, what, at+off)
			if err != nil {
				return 0, err
			}
			part[i] = v
		}
		if part[0] == part[2] {
			return uint64(part[0])<<32 | uint64(part[1]), nil
		}
	}
	return 0, malformed(what, at, "high parts differ in %d reads", timeReads)
}

// wideString returns the UTF-16LE text in b up to its first NUL.
func wideString(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := uint16(b[i]) | uint16(b[i+1])<<8
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
