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
			src, err := newSource(b, hv.MechanismRaw, segs, nil)
			if err != nil {
				return nil, err
			}
			src.notes = o.Notes
			return src, nil
		},
	}
}

// RawMap is a way in which the memory of a raw image may lie in the guest's address
// space.
type RawMap struct {
	Name     string // for people
	Segments []Segment
}

// fourGiB is where the memory goes on that has no place below it.
const fourGiB = 4 << 30

// holes are where memory ends below 4 GiB, if there is at least so much of it.
var holes = []struct {
	name      string
	from, min uint64
}{
	{"with a hole from 2 GiB to 4 GiB, as QEMU's q35 has it", 2 << 30, 0xb0000000},               // QEMU hw/i386/pc_q35.c
	{"with a hole from 3 GiB to 4 GiB, as QEMU's i440fx and VMware have it", 3 << 30, 3<<30 + 1}, // QEMU hw/i386/pc_piix.c
	{"with a hole from 3.5 GiB to 4 GiB, as VirtualBox and an old i440fx have it", 0xe0000000, 0xe0000001},
	{"with a hole from 2.75 GiB to 4 GiB, as an old q35 has it", 0xb0000000, 0xb0000001},
	{"with a hole from 3968 MiB to 4 GiB, as Hyper-V has it", 0xf8000000, 0xf8000001},
}

// RawMaps returns the maps that a raw image of so many bytes may have, where nobody
// says which: all of it from guest-physical 0 on, holes included, as pmemsave and
// dd of /dev/mem write it, or the memory alone with the usual holes below 4 GiB left
// out. Which of them is right, the guest in it must tell.
func RawMaps(size int64) []RawMap {
	n := uint64(max(size, 0)) &^ (phys.PageSize - 1)
	if n == 0 {
		return nil
	}
	maps := []RawMap{{"from guest-physical 0 on without a hole", []Segment{{Size: n}}}}
	for _, h := range holes {
		if n < h.min {
			continue
		}
		maps = append(maps, RawMap{h.name, []Segment{
			{Size: h.from}, {GPA: fourGiB, Size: n - h.from, FileOffset: int64(h.from)},
		}})
	}
	return maps
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
