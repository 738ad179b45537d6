package capture

import (
	"context"
	"errors"
	"sync"

	"snap/dump"
	"snap/hv"
	"snap/phys"
)

// Live says how far the pages of a dump of a guest that ran on are of different
// times.
type Live struct {
	// Changed is how many pages of the dump are not what the guest had when they
	// were read a second time.
	//
	// As soon as all pages are read (copied, where there is a spool; else
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

	Core Core
}

// Core is how the pages went that a debugger can't do without (page tables,
// KDBG, the lists and processors' blocks; see guest.System.Protected). They are
// read in rounds until two agree; see settle.
type Core struct {
	Pages     uint64 // in the last round
	Rounds    int    // of reading them
	Unsettled uint64 // pages that still differed when it was given up, 0 if they agree
}

// takeLive writes a dump of the guest while it does what it likes.
func (j *Job) takeLive(ctx context.Context, t *taking) error {
	mem, closeMem, err := j.sameRAM(ctx, t.mem, t.res)
	if err != nil {
		return err
	}
	defer closeMem()
	base := mem
	if !t.res.Consistent {
		s, err := j.copyRunning(ctx, t, mem)
		if err != nil {
			return err
		}
		if s != nil {
			defer s.Close()
			base, t.res.Spooled = s, true
		}
	}
	settled, cpus, core, err := j.settle(ctx, t.early, mem, base)
	if err != nil {
		return err
	}
	defer settled.Close()
	if core.Unsettled > 0 {
		t.res.warn("%d of the %d pages of page tables and lists still changed after %d rounds of reading them: what hangs on them may be torn, which it is not in mode pause",
			core.Unsettled, core.Pages, core.Rounds)
	}
	if t.res.Spooled {
		return j.writeCopied(ctx, t, mem, settled, cpus, core)
	}
	return j.writeNoted(ctx, t, mem, settled, cpus, core)
}

// copyRunning copies the guest's memory while it runs. The result is nil where
// there is no room for that.
func (j *Job) copyRunning(ctx context.Context, t *taking, mem hv.Memory) (*spool, error) {
	const without = "pages are read as they are compressed, which takes longer"
	pages, fit, err := j.spoolPages(ctx, mem)
	switch {
	case err != nil:
		return nil, err
	case !fit && j.Spool > 0:
		t.res.warn("%s of populated guest memory don't fit a spool of %s: %s", size(pages<<phys.PageShift), size(j.Spool), without)
		return nil, nil
	case !fit:
		return nil, nil
	}
	memory, err := j.reserve(ctx, mem, pages)
	if err == nil {
		var s *spool
		if s, err = j.copyNow(ctx, mem, memory); err == nil {
			return s, nil
		}
		err = errors.Join(err, memory.free())
	}
	if errors.Is(err, errNoSpool) || errors.Is(err, errSpoolFull) {
		t.res.warn("%v: %s", err, without)
		return nil, nil
	}
	return nil, err
}

// writeCopied writes the dump of a copy.
func (j *Job) writeCopied(ctx context.Context, t *taking, mem hv.Memory, settled *settledMemory, cpus []phys.Registers, core Core) error {
	before, _, err := settled.Populated(ctx)
	if err != nil {
		return err
	}
	changed, err := j.changed(ctx, mem, mem.RAM(), before, settled.same)
	if err != nil {
		return err
	}
	k := *j
	k.Writing = func(r *Result) {
		r.Live = &Live{Core: core, Changed: changed.Intersect(pagesOfPlan(r.Survey.Plan)).Pages()}
		if j.Writing != nil {
			j.Writing(r)
		}
	}
	return k.writeFrom(ctx, t, settled, cpus)
}

// writeNoted writes the dump of the guest itself and notes what its pages held.
func (j *Job) writeNoted(ctx context.Context, t *taking, mem hv.Memory, settled *settledMemory, cpus []phys.Registers, core Core) error {
	noted := newNotedMemory(settled)
	k := *j
	k.Writing = func(r *Result) {
		pages := pagesOfPlan(r.Survey.Plan)
		if r.Survey.Plan.Populated != nil {
			pages = r.Survey.Plan.Populated
		}
		noted.begin(pages)
		if j.Writing != nil {
			j.Writing(r)
		}
	}
	// All is read when the metadata are due. They hold the count, so it is made
	// then, but a container that has none doesn't ask.
	count := sync.OnceValue(func() error {
		changed, err := j.changed(ctx, mem, pagesOfPlan(t.res.Survey.Plan), noted.pages, noted.same)
		if err != nil {
			return err
		}
		t.res.Live = &Live{Core: core, Changed: changed.Pages()}
		return j.stillConsistent(ctx, t.res)
	})
	if metadata := j.Write.Metadata; metadata != nil {
		k.Write.Metadata = func(st *dump.Stats) ([]byte, error) {
			if err := count(); err != nil {
				return nil, err
			}
			return metadata(st)
		}
	}
	if err := k.writeFrom(ctx, t, noted, cpus); err != nil {
		return err
	}
	return count()
}

// stillConsistent takes back what was said of a guest that was paused when the
// dump began, if it isn't any more or was not all the time.
func (j *Job) stillConsistent(ctx context.Context, res *Result) error {
	if !res.Consistent {
		return nil
	}
	state, err := j.VM.State(ctx)
	if err != nil {
		return err
	}
	if state != hv.StatePaused || res.Live.Changed > 0 {
		res.Consistent = false
		res.warn("the guest was paused when the dump began, but was resumed meanwhile: pages are from different times")
	}
	return nil
}

// pagesOfPlan returns the pages of the dump.
func pagesOfPlan(p *dump.Plan) phys.Runs {
	pages, err := phys.NewRuns(p.Runs...)
	if err != nil {
		panic("internal error: runs of a dump: " + err.Error()) // the header was made of them
	}
	return pages
}
