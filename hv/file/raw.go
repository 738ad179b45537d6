package file

import (
	"os"

	"snap/hv"
)

// OpenRaw opens a file that holds the given ranges of guest-physical memory, in
// any order. It holds no registers. The error is hv.ErrFormat where the ranges
// overlap, are not made of whole pages or exceed the file.
func OpenRaw(path string, segments []Segment) (hv.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s, err := newSource(f, hv.MechanismRaw, segments, nil)
	if err != nil {
		return nil, err
	}
	return s, nil
}
