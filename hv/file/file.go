// Package file makes files that hold a guest readable: ELF cores that
// `virsh dump --memory-only` wrote, and raw images with a RAM map.
package file

import (
	"snap/guest/phys"
	"snap/hv"
)

// Segment says where a range of guest-physical memory lies in a raw image.
type Segment struct {
	GPA        phys.Addr // page-aligned
	Size       uint64    // bytes, a multiple of the page size
	FileOffset int64     // bytes
}

// OpenELFCore opens an ELF core of a whole x86-64 guest.
func OpenELFCore(path string) (hv.Source, error) { return nil, hv.ErrUnsupported }

// OpenRaw opens a file that holds the given ranges of guest-physical memory.
func OpenRaw(path string, segments []Segment) (hv.Source, error) { return nil, hv.ErrUnsupported }
