package file

import (
	"context"
	"fmt"

	"snap/hv"
	"snap/phys"
)

// raw is an image of guest memory with nothing around it. Only the caller can
// tell that a file is one. It holds no registers.
func raw() format {
	return format{
		name:  "raw image that is said to be raw",
		takes: func(_ []byte, o Options) bool { return o.Raw },
		open: func(_ context.Context, b body, o Options) (hv.Source, error) {
			segs := o.Segments
			if segs == nil {
				var err error
				if segs, err = wholeFile(b.Size()); err != nil {
					return nil, err
				}
			}
			return newSource(b, hv.MechanismRaw, segs, nil)
		},
	}
}

// wholeFile returns the segment of a file that is memory from guest-physical 0
// on, of as many whole pages as there are.
func wholeFile(size int64) ([]Segment, error) {
	n := uint64(max(size, 0)) &^ (phys.PageSize - 1)
	if n == 0 {
		return nil, fmt.Errorf("no whole page in it: %w", hv.ErrFormat)
	}
	return []Segment{{Size: n}}, nil
}
