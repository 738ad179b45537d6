package file

import (
	"fmt"
	"os"

	"snap/hv"
	"snap/phys"
)

// raw is an image of guest memory with nothing around it. Only the caller can
// tell that a file is one. It holds no registers.
func raw() format {
	return format{
		name:  "raw image that is said to be raw",
		takes: func(_ []byte, o Options) bool { return o.Raw },
		open: func(f *os.File, o Options) (hv.Source, error) {
			segs := o.Segments
			if segs == nil {
				var err error
				if segs, err = wholeFile(f); err != nil {
					return nil, err
				}
			}
			return newSource(f, hv.MechanismRaw, segs, nil)
		},
	}
}

// wholeFile returns the segment of a file that is memory from guest-physical 0
// on, of as many whole pages as there are.
func wholeFile(f *os.File) ([]Segment, error) {
	n, err := length(f)
	if err != nil {
		return nil, err
	}
	size := uint64(n) &^ (phys.PageSize - 1)
	if size == 0 {
		return nil, fmt.Errorf("no whole page in it: %w", hv.ErrFormat)
	}
	return []Segment{{Size: size}}, nil
}
