package capture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"snap/guest"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// Budgets of an analysis, whatever a guest of hostileMemory has in its memory. They
// count work, not time.
const (
	hostileMemory = 64 << 20

	mostRead      = 16 * hostileMemory // bytes: finders, the KDBG search and Protected each read most of RAM
	mostReads     = 4 << 20            // calls: pointers that are followed
	mostAllocated = 512 << 20          // bytes in all, nearly all of them free again
	mostWarnings  = 200
)

// workReader counts what is read, and keeps what was read beside RAM.
type workReader struct {
	phys.Reader
	ram     phys.Runs
	mu      sync.Mutex
	bytes   uint64
	reads   uint64
	outside []phys.Addr
}

func (r *workReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r.mu.Lock()
	r.reads++
	r.bytes += uint64(len(p))
	if !r.ram.Covers(at, uint64(len(p))) && len(r.outside) < 4 {
		r.outside = append(r.outside, at)
	}
	r.mu.Unlock()
	return r.Reader.ReadPhys(ctx, p, at)
}

// attacked is what came of an attack.
type attacked struct {
	im       *ntlab.Image
	analysis *Analysis
	err      error
	work     workReader
	alloc    uint64 // bytes
}

// analyzeAttacked does an attack to a clone of im and analyzes the guest. It returns
// nil if the guest has nothing to attack.
func analyzeAttacked(t testing.TB, base *ntlab.Image, a *ntlab.Attack) *attacked {
	t.Helper()
	im := base.Clone()
	if a.Edit != nil {
		if err := a.Edit(im); errors.Is(err, ntlab.ErrNothingThere) {
			return nil
		} else if err != nil {
			t.Fatal(err)
		}
	}
	cpus := slices.Clone(im.Registers())
	if a.Registers != nil {
		cpus = a.Registers(im, cpus)
	}
	var mem phys.Reader = im
	if a.Reader != nil {
		mem = a.Reader(im)
	}
	return analyzeCounted(t, im, mem, cpus)
}

func analyzeCounted(t testing.TB, im *ntlab.Image, mem phys.Reader, cpus []phys.Registers) *attacked {
	x := &attacked{im: im, work: workReader{Reader: mem, ram: im.RAM()}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	x.analysis, x.err = Analyze(t.Context(), &x.work, im.RAM(), cpus, LookOptions{})
	runtime.ReadMemStats(&after)
	x.alloc = after.TotalAlloc - before.TotalAlloc
	return x
}

// check holds what came of an attack against what must hold of any.
func (x *attacked) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(x.work.outside) > 0 {
		wrong("memory at %#x was read, which is no RAM", x.work.outside)
	}
	if x.work.bytes > mostRead || x.work.reads > mostReads || x.alloc > mostAllocated {
		wrong("%d MiB were read by %d reads, and %d MiB allocated; want at most %d, %d, %d",
			x.work.bytes>>20, x.work.reads, x.alloc>>20, mostRead>>20, mostReads, mostAllocated>>20)
	}
	if (x.analysis == nil) == (x.err == nil) {
		wrong("analysis %v, error %v; want one of them", x.analysis, x.err)
	}
	if x.analysis != nil {
		errs = append(errs, checkHeader(x.analysis, x.im.RAM()))
		if n := len(x.analysis.Warnings); n > mostWarnings {
			wrong("%d warnings; want at most %d", n, mostWarnings)
		}
	}
	if text := x.text(); strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7F }) {
		wrong("what is said has control characters: %q", text)
	}
	return errors.Join(errs...)
}

// checkHeader demands a header that decodes, and a dump that is all of RAM.
func checkHeader(a *Analysis, ram phys.Runs) error {
	h, err := header.Decode(a.Plan.Header[:min(len(a.Plan.Header), header.Size64)])
	if err != nil {
		return fmt.Errorf("decode the header: %w", err)
	}
	var errs []error
	if h.DirectoryTableBase.Offset() != 0 || !ram.Has(h.DirectoryTableBase.PFN()) {
		errs = append(errs, fmt.Errorf("DirectoryTableBase is %#x; want a page of RAM", uint64(h.DirectoryTableBase)))
	}
	pages, err := phys.NewRuns(a.Plan.Runs...)
	if err != nil {
		errs = append(errs, err)
	}
	if out := pages.Minus(ram); len(out) > 0 || len(pages) == 0 {
		errs = append(errs, fmt.Errorf("the dump's runs %v are not in RAM, or none", a.Plan.Runs))
	}
	if h.DumpType == header.DumpTypeFull && !h.Describes(a.Plan.Runs) {
		errs = append(errs, fmt.Errorf("the header has runs %v; want those of the dump", h.Runs))
	}
	for _, o := range a.Plan.Overlays {
		if !pages.Covers(o.At, uint64(len(o.Data))) {
			errs = append(errs, fmt.Errorf("%s is laid over %#x, which isn't in the dump", o.What, uint64(o.At)))
		}
	}
	return errors.Join(errs...)
}

// text is what an operator is told.
func (x *attacked) text() string {
	if x.err != nil {
		var none *guest.NotFoundError
		if errors.As(x.err, &none) {
			lines := []string{string(none.Reason), x.err.Error()}
			for _, a := range none.Attempts {
				lines = append(lines, a.String())
			}
			return strings.Join(lines, "\n")
		}
		return x.err.Error()
	}
	return strings.Join(slices.Concat(x.analysis.Warnings, x.analysis.whyDegraded()), "\n")
}

// outcome says what came of it.
func (x *attacked) outcome() ntlab.Outcome {
	switch {
	case x.err != nil:
		return ntlab.Refused
	case x.analysis.Degraded():
		return ntlab.Degraded
	case len(x.analysis.Warnings) > 0:
		return ntlab.Warned
	}
	return ntlab.Found
}

// wrongIdentity returns what is said of the guest that is not so. What isn't said, as
// of a guest without KDBG, is not wrong.
func (x *attacked) wrongIdentity() error {
	s, truth := x.analysis.System, &x.im.Truth
	var errs []error
	for _, v := range []struct {
		what      string
		got, want uint64
	}{
		{"DirectoryTableBase", uint64(s.DirectoryTableBase.Value), uint64(truth.DirectoryTableBase)},
		{"KernBase", uint64(s.KernBase.Value), uint64(truth.KernelBase)},
		{"KDBG", uint64(s.KdDebuggerDataBlock.Value), uint64(truth.KDBG)},
		{"PsLoadedModuleList", uint64(s.PsLoadedModuleList.Value), uint64(truth.PsLoadedModuleList)},
		{"PsActiveProcessHead", uint64(s.PsActiveProcessHead.Value), uint64(truth.PsActiveProcessHead)},
		{"the EPROCESS of System", uint64(s.PsInitialSystemProcess), uint64(truth.SystemProcess)},
	} {
		if v.got != v.want && v.got != 0 {
			errs = append(errs, fmt.Errorf("%s is %#x; want %#x", v.what, v.got, v.want))
		}
	}
	if len(s.KDBG.Block) > 0 && !bytes.HasPrefix(s.KDBG.Block, truth.KDBGPlain) {
		errs = append(errs, errors.New("the KDBG's contents are not the guest's"))
	}
	return errors.Join(errs...)
}

// hostileGuests are the guests that are attacked.
var hostileGuests = []ntlab.Config{
	{Seed: 1},
	{Seed: 2, PlainKDBG: true, SmallPages: true},
	{Seed: 3, LA57: true, StraddleKDBG: true},
	{Seed: 4, LA57: true, PlainKDBG: true, SmallPages: true},
}

// TestHostileGuests demands of every attack what it says must come of it, within
// budgets of work and memory, and that nothing is said that isn't so.
func TestHostileGuests(t *testing.T) {
	attacks := slices.Concat(ntlab.Attacks(), ntlab.ReadingAttacks())
	if len(attacks) < 60 {
		t.Fatalf("%d attacks; want 60 at least", len(attacks))
	}
	for _, c := range hostileGuests {
		c.Memory = hostileMemory
		base := newGuest(t, c).im
		for _, a := range attacks {
			t.Run(fmt.Sprintf("%d levels, plain %v/%s", map[bool]int{true: 5, false: 4}[c.LA57], c.PlainKDBG, a.Name), func(t *testing.T) {
				x := analyzeAttacked(t, base, &a)
				if x == nil {
					return
				}
				if err := x.check(); err != nil {
					t.Error(err)
				}
				if got := x.outcome(); a.Outcome != ntlab.Any && got != a.Outcome {
					t.Errorf("%s: %v; want %v\n%s", a.About, got, a.Outcome, x.text())
				}
				if !strings.Contains(x.text(), a.Says) {
					t.Errorf("%s: it is said that %q; want %q", a.About, x.text(), a.Says)
				}
				if x.analysis != nil && a.Reader == nil {
					if err := x.wrongIdentity(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}
