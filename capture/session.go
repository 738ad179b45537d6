package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"slices"
	"time"

	"snap/exclude"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// Session is a guest that a dump may be taken of: its memory is open, and it was
// analyzed as it ran, so that what can't be dumped is never held still. It is
// for one goroutine.
type Session struct {
	VM       hv.VM
	Memory   hv.Memory
	Analysis *Analysis // of the guest while it ran
	Options  Options

	// Thorough has estimates say all that they can, which takes a sample of the
	// guest's pages to be read and compressed.
	Thorough bool

	state    hv.State // when it was opened
	warnings []string // for whatever dump comes of it

	sample *Sample        // nil until it is made
	copied *PauseEstimate // of a copy; nil until it is made
	probed *probe         // of a memory whose reads are dear; nil until it is made
	ahead  *reservation   // got in the background; nil if none is

	zeros *float64 // part of the populated pages that hold only zeros; nil until it is sampled

	scans []time.Duration // how long it took to ask which pages are populated
}

// Open opens the memory of vm and analyzes it. The caller closes the Session; vm
// stays the caller's.
func Open(ctx context.Context, vm hv.VM, o Options) (_ *Session, err error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	if err := state.Check(vm.Identity(), true); err != nil {
		return nil, err
	}
	if o.Mechanism == "" {
		o.Mechanism = hv.MechanismAuto
	}
	o.tellLook()
	mem, err := vm.OpenMemory(ctx, o.Mechanism)
	if err != nil {
		return nil, err
	}
	s := &Session{VM: vm, Memory: mem, Options: o, state: state}
	s.reserveAhead(ctx)
	if s.Analysis, err = s.analyzeRunning(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	sys := s.Analysis.System
	o.debug(ctx, "Windows found", "by", sys.Witness, "attempts", len(sys.Attempts), "windows", sys.Name(),
		"system_cr3", fmt.Sprintf("%#x", uint64(sys.DirectoryTableBase.Value)), "kdbg", sys.KdDebuggerDataBlock.From, "took", s.Analysis.Took.String())
	o.debug(ctx, "source chosen", "source", string(mem.Mechanism()), "asked_for", string(o.Mechanism))
	if f, ok := mem.(hv.FallbackMemory); ok && f.WhyNotDirect() != nil {
		s.warnings = append(s.warnings, "memory is read through libvirt, which is slow: "+f.WhyNotDirect().Error())
	}
	return s, nil
}

// Close closes the guest's memory, and gives back the host's.
func (s *Session) Close() error { return errors.Join(s.dropProbe(), s.dropAhead(), s.Memory.Close()) }

// analyzeRunning analyzes a guest that may change underneath: what fails, or lacks
// something, may be as it should the next time.
func (s *Session) analyzeRunning(ctx context.Context) (*Analysis, error) {
	tries := s.Options.Tries
	if tries == 0 {
		tries = DefaultTries
	}
	defer trace.StartRegion(ctx, "look").End()
	var lacking *Analysis
	for try := 1; ; try++ {
		cpus, err := s.VM.Registers(ctx)
		if err != nil {
			return nil, err
		}
		a, err := Analyze(ctx, s.Memory, s.Memory.RAM(), cpus, s.Options.Look)
		why := err
		switch {
		case err == nil && len(a.lacks) == 0:
			return a, nil
		case err == nil:
			lacking, why = a, errors.New(a.lacks[0].What)
		}
		switch {
		case ctx.Err() != nil || isLasting(err):
			return a, err
		case try >= tries && lacking != nil:
			return lacking, nil
		case try >= tries:
			return nil, err
		}
		s.Options.debug(ctx, "analyze the guest again", "try", try, "why", why)
	}
}

// isLasting reports whether an analysis failed because of what won't be another way
// the next time.
func isLasting(err error) bool {
	return errors.Is(err, exclude.ErrTooMany) || errors.Is(err, ErrNotExcluded) || errors.Is(err, ErrTooManyRuns)
}

// Account begins the account of a moment that mode acquires: of different times,
// unless the guest stands still already or the mode holds it still.
func (s *Session) Account(mode Mode) Account {
	a := Account{
		Mode: mode.Name(), Mechanism: s.Memory.Mechanism(), State: s.state, Consistency: manifest.DifferentTimes,
		Warnings: slices.Clone(s.warnings),
	}
	if s.state.Still() {
		a.Consistency = manifest.OnePointInTime
	}
	return a
}

// sameRAM returns the session's memory, or the memory opened anew where the
// guest's RAM map is no longer that of it.
func (s *Session) sameRAM(ctx context.Context, acc *Account) (hv.Memory, func(), error) {
	ram, err := s.VM.RAM(ctx)
	if err != nil {
		return nil, nil, err
	}
	if slices.Equal(ram, s.Memory.RAM()) {
		return s.Memory, func() {}, nil
	}
	acc.warn("the domain's RAM map changed while the dump began: it was read again")
	again, err := s.VM.OpenMemory(ctx, s.Options.Mechanism)
	if err != nil {
		return nil, nil, err
	}
	return again, func() { _ = again.Close() }, nil
}

// withMargin is how many pages a copy is made ready for: a running guest
// populates more of them until it stands still.
func withMargin(pages uint64) uint64 { return pages + pages/16 + 4096 }

// populated asks which pages are populated, and keeps how long that took.
func (s *Session) populated(ctx context.Context) (phys.Runs, error) {
	start := time.Now()
	set, _, err := s.Memory.Populated(ctx)
	if err == nil {
		s.scans = append(s.scans, time.Since(start))
	}
	return set, err
}

// copyPages returns how many pages are populated, and whether a copy of them
// fits.
func (s *Session) copyPages(ctx context.Context) (pages uint64, fit bool, err error) {
	defer s.ahead.hush()()
	set, err := s.populated(ctx)
	if err != nil {
		return 0, false, err
	}
	pages = set.Pages()
	s.sampleZeros(ctx, set)
	return pages, min(withMargin(pages), s.Memory.RAM().Pages()) <= s.Options.MemoryCopy>>phys.PageShift, nil
}
