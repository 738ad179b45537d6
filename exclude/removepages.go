package exclude

import (
	"encoding/binary"
	"fmt"
)

// Flags of KBUGCHECK_REMOVE_PAGES (wdm.h).
const (
	FlagVirtual          = 0x00000001 // KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS
	FlagPhysical         = 0x00000002 // KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS
	FlagAdditionalRanges = 0x80000000 // KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST

	// featureMask is KB_ADD_PAGES_FEATURE_MASK and KB_REMOVE_PAGES_FEATURE_MASK,
	// a nibble each from bits 4 and 8 on. What the bits in them mean is the
	// driver's and the kernel's affair.
	featureMask = 0xf<<4 | 0xf<<8

	knownFlags = FlagVirtual | FlagPhysical | FlagAdditionalRanges | featureMask
)

// Layout is one of the two layouts of KBUGCHECK_REMOVE_PAGES; its value is the
// structure's size in bytes.
type Layout int

// The layouts: pointers and ULONG_PTR have 8 or 4 bytes.
const (
	Layout64 Layout = 0x20
	Layout32 Layout = 0x14
)

// RemovePages is a KBUGCHECK_REMOVE_PAGES structure (wdm.h), widened to 64 bits.
type RemovePages struct {
	Context      uint64 // the driver's own; never followed
	Flags        uint32
	BugCheckCode uint32
	Address      uint64 // virtual or physical
	Count        uint64 // 4 KiB pages
}

// MaxTableEntries bounds the entries of one advertised table.
const MaxTableEntries = 1 << 16

// DecodeRemovePages decodes the structure at the start of b. It fails only if b
// is too short or the layout unknown: whether the structure makes sense is for
// Status to say.
func DecodeRemovePages(b []byte, layout Layout) (RemovePages, error) {
	if layout != Layout64 && layout != Layout32 {
		return RemovePages{}, fmt.Errorf("decode KBUGCHECK_REMOVE_PAGES: no layout has %#x bytes", int(layout))
	}
	if len(b) < int(layout) {
		return RemovePages{}, fmt.Errorf("decode KBUGCHECK_REMOVE_PAGES: %d bytes of %d", len(b), int(layout))
	}
	le := binary.LittleEndian
	if layout == Layout32 {
		return RemovePages{
			Context:      uint64(le.Uint32(b[0x00:])),
			Flags:        le.Uint32(b[0x04:]),
			BugCheckCode: le.Uint32(b[0x08:]),
			Address:      uint64(le.Uint32(b[0x0c:])),
			Count:        uint64(le.Uint32(b[0x10:])),
		}, nil
	}
	return RemovePages{
		Context:      le.Uint64(b[0x00:]),
		Flags:        le.Uint32(b[0x08:]),
		BugCheckCode: le.Uint32(b[0x0c:]),
		Address:      le.Uint64(b[0x10:]),
		Count:        le.Uint64(b[0x18:]),
	}, nil
}

// Status returns what the kernel makes of r: success, or why it would take
// nothing from it. A structure that asks for no page is never wrong: the kernel
// looks at its flags only when there is something to remove.
func (r RemovePages) Status() NTStatus {
	switch {
	case r.Count == 0:
		return StatusSuccess
	case r.Flags&^knownFlags != 0:
		return StatusInvalidParameter4
	case r.Flags&(FlagVirtual|FlagPhysical) != FlagVirtual && r.Flags&(FlagVirtual|FlagPhysical) != FlagPhysical:
		return StatusInvalidParameter
	default:
		return StatusSuccess
	}
}

// AppliesTo reports whether r is meant for a dump with the given bug check code.
func (r RemovePages) AppliesTo(bugCheckCode uint32) bool {
	return r.BugCheckCode == 0 || r.BugCheckCode == bugCheckCode
}

// DecodeTable returns one Request of the driver named by for each of the
// structures that fill b, right or wrong. It fails if b isn't a whole number of
// structures or has more than MaxTableEntries.
func DecodeTable(by string, b []byte, layout Layout) ([]Request, error) {
	if layout != Layout64 && layout != Layout32 {
		return nil, fmt.Errorf("decode entries of %s: no layout has %#x bytes", by, int(layout))
	}
	if len(b)%int(layout) != 0 || len(b)/int(layout) > MaxTableEntries {
		return nil, fmt.Errorf("decode entries of %s: %d bytes are no table of at most %d entries of %d bytes",
			by, len(b), MaxTableEntries, int(layout))
	}
	rs := make([]Request, 0, len(b)/int(layout))
	for ; len(b) > 0; b = b[layout:] {
		e, err := DecodeRemovePages(b, layout)
		if err != nil {
			return nil, err
		}
		rs = append(rs, Request{
			By: by, Reason: Advertised, Flags: e.Flags, BugCheckCode: e.BugCheckCode, Address: e.Address, Pages: e.Count,
		})
	}
	return rs, nil
}
