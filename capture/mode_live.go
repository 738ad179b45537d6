package capture

import (
	"context"
	"errors"
	"sync"

	"snap/dump"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// Live is the mode in which the guest does what it likes: pages are of different
// times, and it is counted how many changed meanwhile.
type Live struct{}

// Name implements Mode.
func (Live) Name() string { return "live" }

// Doc implements Mode.
func (Live) Doc() string { return "it runs, and pages are from different times" }

// Auto implements Mode: never unasked.
func (Live) Auto() bool { return false }

// Consistent implements Mode.
func (Live) Consistent() bool { return false }

// Check implements Mode: any guest can be read.
func (Live) Check(context.Context, hv.VM) error { return nil }

// Smear says how far the pages of a dump of a guest that ran on are of different
// times.
type Smear struct {
	// Changed is how many pages of the dump are not what the guest had when they
	// were read a second time.
	//
	// As soon as all pages are read (copied, where there is room for a copy; else
	// written), each of them that the host has populated is read again and held
	// against what the dump has: byte by byte against a copy, else by 32 bits of a
	// keyed hash that was noted at the first reading, which misses one change in
	// four thousand million. So the following count: pages that the guest wrote to
	// between their two readings, also those that only came to hold anything since
	// the first, are gone, or can't be read any more. The following don't: pages that
	// hold the same again at the second reading, pages written to after it, and
	// gaps of the dump, which are no memory of any time.
	//
	// It is thus at least the number of pages that are not what they were when the
	// last of all pages was read, but for those that changed back.
	Changed uint64

	Metadata Metadata
}

// Metadata is how the pages went that a debugger can't do without, the kernel
// metadata (page tables, KDBG, the lists and processors' blocks; see
// guest.System.Protected). They are read in rounds until two agree; see
// stabilise.
type Metadata struct {
	Pages    uint64 // in the last round
	Rounds   int    // of reading them
	Unstable uint64 // pages that still differed when it was given up, 0 if they agree
}

// Estimate implements Mode. Everything is read twice, the second time to count
// what changed. Where nothing is copied first, only reading that is slow adds to
// what writing takes.
func (Live) Estimate(ctx context.Context, s *Session) ([]Estimate, error) {
	e := Estimate{Mode: Live{}.Name()}
	_, fit, err := s.copyPages(ctx)
	if err != nil {
		return nil, err
	}
	if s.sample != nil {
		e.Takes = s.sample.Duration
	}
	switch {
	case fit:
		p, err := s.estimateCopy(ctx)
		if err != nil {
			return nil, err
		}
		e.Copied = true
		e.Takes += 2 * p.Reading.Likely
	case s.sample != nil && s.sample.Reading > 0:
		e.Takes = s.sample.writing() + s.sample.Reading
	}
	return []Estimate{e}, nil
}

// Acquire implements Mode.
func (Live) Acquire(ctx context.Context, s *Session, _ *Estimate) (_ *Moment, err error) {
	m := &Moment{Account: s.Account(Live{}), ctx: ctx, early: s.Analysis}
	var undo []func() error
	m.end = func(err error) error {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = m.Release(err)
		}
	}()
	mem, closeMem, err := s.sameRAM(ctx, &m.Account)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { closeMem(); return nil })
	base := mem
	if !m.Account.Consistent() {
		c, err := s.copyRunning(ctx, &m.Account, mem)
		if err != nil {
			return nil, err
		}
		if c != nil {
			undo = append(undo, c.Close)
			base, m.Account.Copied = c, true
		}
	}
	stable, cpus, metadata, err := s.stabilise(ctx, mem, base)
	if err != nil {
		return nil, err
	}
	undo = append(undo, stable.Close)
	if metadata.Unstable > 0 {
		m.Account.warn("%d of the %d pages of page tables and lists still changed after %d rounds of reading them: what hangs on them may be torn, which it is not in mode pause",
			metadata.Unstable, metadata.Pages, metadata.Rounds)
	}
	m.CPUs = cpus
	r := &rereading{session: s, mem: mem, metadata: metadata}
	if m.Account.Copied {
		m.Memory = stable
		m.smear, err = r.ofCopy(ctx, stable)
		return m, err
	}
	m.kept = &keptMemory{Memory: stable}
	noted := newNotedMemory(m.kept)
	m.Memory, m.smear = noted, &notedSmear{rereading: r, noted: noted}
	return m, nil
}

// copyRunning copies the guest's memory while it runs. The result is nil where
// there is no room for that.
func (s *Session) copyRunning(ctx context.Context, acc *Account, mem hv.Memory) (*memoryCopy, error) {
	const without = "pages are read as they are compressed, which takes longer"
	pages, fit, err := s.copyPages(ctx)
	switch {
	case err != nil:
		return nil, err
	case !fit && s.Options.MemoryCopy > 0:
		s.warnNoRoom(acc, pages, without)
		return nil, nil
	case !fit:
		return nil, nil
	}
	memory, err := s.reserve(ctx, mem, pages)
	if err == nil {
		s.Options.tell(Event{Phase: PhaseCopy})
		var c *memoryCopy
		if c, err = s.copyNow(ctx, mem, memory, s.Options.workers(), new(copyWork)); err == nil {
			return c, nil
		}
		err = errors.Join(err, memory.free())
	}
	if errors.Is(err, errNoCopy) || errors.Is(err, errCopyFull) {
		acc.warn("%v: %s", err, without)
		return nil, nil
	}
	return nil, err
}

// rereading is the second reading of a guest that runs.
type rereading struct {
	session  *Session
	mem      hv.Memory
	metadata Metadata
}

// copySmear is the smear of a copy: the second reading is done.
type copySmear struct {
	*rereading
	changed phys.Runs
}

// ofCopy reads the guest a second time and holds it against the copy.
func (r *rereading) ofCopy(ctx context.Context, c *stableMemory) (*copySmear, error) {
	before, _, err := c.Populated(ctx)
	if err != nil {
		return nil, err
	}
	changed, err := reread(ctx, r.mem, r.mem.RAM(), before, c.same, r.session.Options.workers())
	return &copySmear{r, changed}, err
}

func (c *copySmear) begin(p *dump.Plan, acc *Account) {
	acc.Smear = &Smear{Metadata: c.metadata, Changed: c.changed.Intersect(pagesOfPlan(p)).Pages()}
}

func (c *copySmear) count(context.Context, *dump.Plan, *Account) error { return nil }

// notedSmear is the smear of memory that is read as it is written.
type notedSmear struct {
	*rereading
	noted *notedMemory

	once sync.Once
	err  error
}

func (n *notedSmear) begin(p *dump.Plan, _ *Account) {
	pages := pagesOfPlan(p)
	if p.Populated != nil {
		pages = p.Populated
	}
	n.noted.begin(pages)
}

func (n *notedSmear) count(ctx context.Context, p *dump.Plan, acc *Account) error {
	n.once.Do(func() { n.err = n.reread(ctx, p, acc) })
	return n.err
}

func (n *notedSmear) reread(ctx context.Context, p *dump.Plan, acc *Account) error {
	s := n.session
	changed, err := reread(ctx, n.mem, pagesOfPlan(p), n.noted.index.Set(), n.noted.same, s.Options.workers())
	if err != nil {
		return err
	}
	acc.Smear = &Smear{Metadata: n.metadata, Changed: changed.Pages()}
	if !acc.Consistent() {
		return nil
	}
	// What was said of a guest that stood still when the dump began is taken back
	// if it doesn't any more, or did not all the time.
	state, err := s.VM.State(ctx)
	if err != nil {
		return err
	}
	if !state.Still() || acc.Smear.Changed > 0 {
		acc.Consistency = manifest.DifferentTimes
		acc.warn("the guest was %s when the dump began, but was resumed meanwhile: pages are from different times", acc.State)
	}
	return nil
}

// pagesOfPlan returns the pages of the dump.
func pagesOfPlan(p *dump.Plan) phys.Runs {
	pages, err := phys.SetOf(p.Runs)
	if err != nil {
		panic("internal error: runs of a dump: " + err.Error()) // the header was made of them
	}
	return pages
}
