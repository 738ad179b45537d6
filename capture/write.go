package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/trace"
	"slices"
	"time"

	"snap/dump"
	"snap/dump/verify"
	"snap/exclude"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// Result is a dump that was taken. It is complete: nothing is added to it later,
// and the memory that it is of may be closed.
type Result struct {
	Account
	Analysis *Analysis
	Stats    *dump.Stats

	// Manifest is the account of all that, as it lies in the file and, complete
	// with the verdict, beside it.
	Manifest *manifest.Manifest
	// Degraded: the dump was written, but pages are missing, or may be in it that
	// were asked to stay out (Analysis.Degraded), it could not be verified, or too
	// many pages changed in mode live; Manifest.Warnings say what it is.
	Degraded bool
	// Contents are those of Manifest.Warnings that say what the dump lacks of the
	// guest's memory, or may hold against somebody's wish.
	Contents []string

	proof    *dump.Proof // what the file is held against when it is read back
	verified bool        // of Options.inFlight: there are no faults
}

// Dump acquires the guest's memory, analyzes it and writes the dump to w, which
// is neither read back nor closed: Take does that. When it returns, the guest
// does what it did before, unless errors.Is(err, hv.ErrStillPaused).
func (s *Session) Dump(ctx context.Context, w io.Writer) (*Result, error) {
	return s.dump(ctx, w, newManifest(s.VM.Identity(), s.Options.modeName(), &s.Options))
}

// dump is Dump, with its account in man as soon as it is known.
func (s *Session) dump(ctx context.Context, w io.Writer, man *manifest.Manifest) (*Result, error) {
	m, err := s.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	res, err := s.write(m, w, man)
	if err = m.Release(err); err != nil {
		return nil, err
	}
	res.Account = m.Account // with what letting go added
	s.Options.addAccount(man, &m.Account)
	return res, nil
}

// write analyzes the moment and writes the dump of it.
func (s *Session) write(m *Moment, w io.Writer, man *manifest.Manifest) (*Result, error) {
	a, err := s.analyze(m)
	if err != nil {
		return nil, err
	}
	return s.Options.writeMoment(m, a, w, man)
}

// writeMoment writes the dump of the moment that a is the analysis of.
func (o *Options) writeMoment(m *Moment, a *Analysis, w io.Writer, man *manifest.Manifest) (*Result, error) {
	ctx := m.Context()
	if err := a.setPopulated(ctx, m); err != nil {
		return nil, err
	}
	if m.smear != nil {
		m.smear.begin(a.Plan, &m.Account)
	}
	describeAnalysis(man, a)
	for _, w := range a.Warnings {
		man.Warn("%s", w)
	}
	var verified bool
	err := m.kept.during(func() (err error) {
		verified, err = o.checkInFlight(ctx, m.Memory, a.Plan, man, (*verify.Report).Unmeant)
		return err
	})
	if err != nil {
		return nil, err
	}
	// complete adds what is known once all pages are read.
	complete := func(st *dump.Stats) error {
		if err := m.count(ctx, a.Plan); err != nil {
			return err
		}
		addStats(man, st)
		o.addAccount(man, &m.Account)
		lastPage(man, verified)
		return nil
	}
	proof := new(dump.Proof)
	wo := o.Write
	wo.Proof = proof
	wo.Metadata = func(st *dump.Stats) ([]byte, error) {
		if err := complete(st); err != nil {
			return nil, err
		}
		o.addProof(man, proof)
		return man.Compact()
	}
	wo.Progress = new(dump.Progress)
	o.tell(Event{Phase: PhaseWrite, Held: m.Account.Held, Progress: wo.Progress})
	if err := announce(w, a.Plan); err != nil {
		return nil, err
	}
	if h, ok := w.(store.HeldWriter); ok {
		h.Held(m.Account.Held)
	}
	stop := m.watch(a.Plan, wo.Progress)
	writing := trace.StartRegion(ctx, "write")
	mem, end := readAhead(ctx, m.Memory, a.Plan)
	st, err := dump.Write(ctx, w, mem, a.Plan, wo)
	end()
	writing.End()
	stop()
	if err != nil {
		return nil, err
	}
	// A container that has no room for metadata didn't ask.
	if err := complete(st); err != nil {
		return nil, err
	}
	o.addProof(man, proof)
	return &Result{Account: m.Account, Analysis: a, Stats: st, Manifest: man, Contents: a.Contents, proof: proof, verified: verified}, nil
}

// lastPage notes that the last page is written, for the account inside the dump, and
// whether faults are known by then.
func lastPage(man *manifest.Manifest, verified bool) {
	if man.LastPage.IsZero() {
		man.LastPage = time.Now().UTC()
	}
	if !verified || degraded(man) {
		man.ExitCode = manifest.ExitDegraded
	}
}

// count has counted what changed, once all pages are read.
func (m *Moment) count(ctx context.Context, p *dump.Plan) error {
	if m.smear == nil {
		return nil
	}
	return m.smear.count(ctx, p, &m.Account)
}

// analyze analyzes the moment.
func (s *Session) analyze(m *Moment) (*Analysis, error) {
	ctx := m.Context()
	defer trace.StartRegion(ctx, "analyze").End()
	look := s.Options.Look
	look.Earlier = s.Analysis
	a, err := Analyze(ctx, m.Memory, m.Memory.RAM(), m.CPUs, look)
	switch {
	case err == nil:
	case m.early != nil && ctx.Err() == nil && !isVerdict(err):
		stands := *m.early
		a = &stands
		m.Account.warn("the guest changed while it was looked at again: the header is of %v", err)
		a.unread("what drivers advertise could not be read again: what they advertised a moment before is left out")
		if err := a.checkUnmet(look.Exclusion); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if !slices.Equal(s.Analysis.System.PhysicalMemory.Value, a.System.PhysicalMemory.Value) {
		m.Account.warn("the guest's memory changed while the dump began: the header was made again")
	}
	return a, nil
}

// isVerdict reports whether an analysis failed not because the guest isn't
// understood, but because there must be no dump of it as it is.
func isVerdict(err error) bool {
	return errors.Is(err, ErrNotExcluded) || errors.Is(err, ErrUnmet) || errors.Is(err, exclude.ErrTooMany) || errors.Is(err, ErrTooManyRuns)
}

// setPopulated completes the plan by what of the moment can hold anything.
func (a *Analysis) setPopulated(ctx context.Context, m *Moment) error {
	pages, err := phys.SetOf(a.Plan.Runs)
	if err != nil {
		return err
	}
	set, known, err := m.Memory.Populated(ctx)
	if err != nil {
		return fmt.Errorf("ask which pages are populated: %w", err)
	}
	if known {
		// Not nil even if empty: nil would mean that nothing is known.
		if a.Plan.Populated = set.Intersect(pages); a.Plan.Populated == nil {
			a.Plan.Populated = phys.Runs{}
		}
	}
	return nil
}

// modeName returns the name of the mode that was asked for.
func (o *Options) modeName() string {
	if o.Mode == nil {
		return ModeAuto
	}
	return o.Mode.Name()
}
