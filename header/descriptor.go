package header

import (
	"fmt"
	"slices"

	"snap/phys"
)

// How many runs a header may have.
const (
	// MaxRuns is the number of whole runs in the 700 bytes that a 64-bit
	// header has for PHYSICAL_MEMORY_DESCRIPTOR64: (700 - 16) / 16.
	MaxRuns = 42
	// MaxRuns32 is the same for a 32-bit header: (700 - 8) / 8.
	MaxRuns32 = 86
	// PortableRuns is how many runs every known reader takes: memflow-coredump
	// stops at 32.
	PortableRuns = 32
)

// MaxRuns returns the largest number of runs in a header of width w.
func (w Width) MaxRuns() int {
	if w == Width32 {
		return MaxRuns32
	}
	return MaxRuns
}

// runSize returns the bytes of one {BasePage, PageCount}: two pointer-sized
// integers.
func (w Width) runSize() int { return int(w) / 8 * 2 }

// loadRuns reads the runs of a descriptor. It checks their number only.
func loadRuns(w Width, img []byte) ([]phys.Run, error) {
	count, _ := fieldOf(w, nameNumberOfRuns)
	run, _ := fieldOf(w, nameRun)
	n := getUint(img[count.Offset:count.end()])
	switch {
	case n == uint64(Unset32):
		return nil, formatError(w, nameNumberOfRuns, n, "not set")
	case n > uint64(w.MaxRuns()):
		return nil, tooManyRuns(w, n)
	case n == 0:
		return nil, nil
	}
	runs := make([]phys.Run, n)
	half := w.runSize() / 2
	for i := range runs {
		at := run.Offset + i*w.runSize()
		runs[i].Base = phys.PFN(getUint(img[at : at+half]))
		runs[i].Pages = getUint(img[at+half : at+2*half])
	}
	return runs, nil
}

// runsIn returns the runs of a descriptor that is in order, and none for any
// other: dumps without runs leave anything there.
func runsIn(w Width, img []byte) []phys.Run {
	runs, err := loadRuns(w, img)
	if err != nil || checkRuns(w, runs) != nil {
		return nil
	}
	return runs
}

// storeRuns writes runs over a descriptor. One that says the same already stays
// as it is. No runs make it zero, as Windows does in a bitmap dump. It fails,
// and writes nothing, if checkRuns refuses the runs.
func storeRuns(w Width, img []byte, runs []phys.Run) error {
	if err := checkRuns(w, runs); err != nil {
		return err
	}
	if slices.Equal(runsIn(w, img), runs) {
		return nil
	}
	count, _ := fieldOf(w, nameNumberOfRuns)
	run, _ := fieldOf(w, nameRun)
	area := img[run.Offset:run.end()]
	put(img[count.Offset:count.end()], uint64(len(runs)))
	if len(runs) == 0 {
		clear(area)
		return nil
	}
	fill(area, run.Offset)
	half := w.runSize() / 2
	for i, r := range runs {
		at := i * w.runSize()
		put(area[at:at+half], uint64(r.Base))
		put(area[at+half:at+2*half], r.Pages)
	}
	return nil
}

// checkRuns holds runs against what readers demand: few enough, none empty,
// within the address space, ascending and disjoint. Runs may touch.
func checkRuns(w Width, runs []phys.Run) error {
	if len(runs) > w.MaxRuns() {
		return tooManyRuns(w, uint64(len(runs)))
	}
	var end phys.PFN
	for i, r := range runs {
		if reason := runFault(w, r, end); reason != "" {
			f, _ := fieldOf(w, nameRun)
			return &FormatError{
				Field:  fmt.Sprintf("%s[%d]", nameRun, i),
				Offset: f.Offset + i*w.runSize(),
				Value:  uint64(r.Base),
				Reason: reason,
			}
		}
		end = r.End()
	}
	return nil
}

func tooManyRuns(w Width, n uint64) error {
	return formatError(w, nameNumberOfRuns, n, fmt.Sprintf("a header has room for %d runs", w.MaxRuns()))
}

// runFault says what is wrong with r after a run that ended at end, "" if
// nothing is.
func runFault(w Width, r phys.Run, end phys.PFN) string {
	switch {
	case r.Pages == 0:
		return "the run is empty"
	case !r.Valid():
		return fmt.Sprintf("%#x pages from there leave the address space", r.Pages)
	case r.Base < end:
		return fmt.Sprintf("the run before ends at page %#x", uint64(end))
	case w == Width32 && (uint64(r.Base) > maxUint32 || r.Pages > maxUint32):
		return "the run needs more than 32 bits"
	}
	return ""
}

const maxUint32 = 1<<32 - 1

// Describes reports whether the header's runs are exactly the pages of runs,
// which may be in any order and split anyhow. If not, the memory has changed
// since the header was made, or it is another guest's, and the header must be
// made again.
func (h *Header) Describes(runs []phys.Run) bool {
	have, err := phys.NewRuns(h.Runs...)
	if err != nil {
		return false
	}
	want, err := phys.NewRuns(runs...)
	return err == nil && slices.Equal(have, want)
}

// clearDescriptor makes the physical memory zero, as Windows has it in a dump
// with a bitmap.
func (h *Header) clearDescriptor() {
	at := descriptor64
	if h.Width == Width32 {
		at = descriptor32
	}
	h.raw = slices.Clone(h.raw)
	clear(h.raw[at:][:descriptorSize])
	h.Runs, h.NumberOfPages = nil, 0
}
