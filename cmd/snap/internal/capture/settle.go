package capture

import (
	"bytes"
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"snap/guest"
	"snap/hv"
	"snap/phys"
)

// settleCaps bound what is done for a core that doesn't come to rest.
type settleCaps struct {
	pages  uint64 // of a core: a copy of it is kept, and another one while it is read again
	rounds int
	time   time.Duration // after which no other round begins
}

// defaultCaps: 64 Ki page tables map 128 GiB of kernel memory by 4 KiB pages,
// and take 256 MiB.
var defaultCaps = settleCaps{pages: 1 << 16, rounds: 16, time: 10 * time.Second}

// settle reads the core of a running guest in rounds until two agree, and
// returns base with the pages of the last round in it, the registers that were
// asked for during that round, and how it went. mem is the guest's memory; base
// is mem, or a copy of it. The caller closes the result.
//
// Which pages are the core follows from the round before: each round reads them
// anew and then follows tables and lists through what it read. Two rounds agree
// if
//
//   - the page tables have the same entries, but for bits that don't say where an
//     entry leads (guest.Arch.SameTable), and
//   - all else reads the same: the kernel, the KDBG, the processors' blocks, the
//     memory ranges, each module and each process in the order of its list, which
//     page everything lies on, and where a list is broken, how.
//
// Bytes on the same pages that say nothing of that, such as counters and times,
// may differ: on Windows they always do. Whatever agrees was read once before the
// last round began and once after, with the same result; so unless it changed and
// changed back, it is of one point in time, that moment.
func (j *Job) settle(ctx context.Context, early *Survey, mem, base hv.Memory) (out *settledMemory, cpus []phys.Registers, core Core, err error) {
	out = &settledMemory{Memory: base}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	caps := j.caps
	if caps == (settleCaps{}) {
		caps = defaultCaps
	}
	protected, _ := early.System.Protected(ctx) // what could not be followed is met again below
	if ctx.Err() != nil {
		return out, nil, core, context.Cause(ctx)
	}
	first := guest.CoreOf(protected)
	core.Pages = first.Pages.Pages()
	pages := first.Pages
	var last *guest.Core
	for began := time.Now(); ; {
		if pages.Pages() > caps.pages {
			core.Unsettled = pages.Pages()
			if cpus == nil {
				cpus, err = j.VM.Registers(ctx)
			}
			return out, cpus, core, err
		}
		var fresh *spool
		if fresh, cpus, err = j.readCore(ctx, mem, pages); err != nil {
			return out, nil, core, err
		}
		core.Rounds++
		core.Pages = pages.Pages()
		d := compareCores(early.System.Arch.SameTable, out.core, fresh, last)
		if err = out.replace(fresh); err != nil {
			return out, nil, core, err
		}
		facts, lookErr := guest.ReadCore(ctx, out, mem.RAM(), cpus)
		if ctx.Err() != nil {
			return out, nil, core, context.Cause(ctx)
		}
		if lookErr != nil {
			j.Log.Debug().Err(lookErr).Int("round", core.Rounds).Msg("core of the guest not understood")
		}
		core.Unsettled = d.unsettled(last, facts, pages)
		if core.Unsettled == 0 || core.Rounds >= caps.rounds || time.Since(began) >= caps.time {
			return out, cpus, core, nil
		}
		if last = facts; facts != nil {
			pages = facts.Pages
		}
	}
}

// readCore copies pages of the running guest, and asks for its registers
// meanwhile.
func (j *Job) readCore(ctx context.Context, mem hv.Memory, pages phys.Runs) (s *spool, cpus []phys.Registers, err error) {
	memory, err := newRegion(pages.Pages() << phys.PageShift)
	if err != nil {
		return nil, nil, err
	}
	if s, err = newSpool(memory, mem, pages, true); err != nil {
		return nil, nil, errors.Join(err, memory.free())
	}
	var asked errgroup.Group
	asked.Go(func() (err error) {
		cpus, err = j.VM.Registers(ctx)
		return err
	})
	err = s.fill(ctx, mem, j.workers())
	if err = errors.Join(err, asked.Wait()); err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, cpus, nil
}

// coreDiff is how two readings of a core differ.
type coreDiff struct {
	tables uint64 // page tables that lead elsewhere, or were not read before
	others uint64 // all other pages that differ in any byte
}

// compareCores holds the pages of two rounds against each other; facts say which
// pages of the second are page tables, and are nil if nothing does. sameTable
// compares those.
func compareCores(sameTable func(a, b []byte) bool, before, now *spool, facts *guest.Core) coreDiff {
	var d coreDiff
	for _, r := range now.pages {
		for p := r.Base; p < r.End(); p++ {
			var a []byte
			read := false
			if before != nil {
				a, read = before.page(p)
			}
			b, readNow := now.page(p)
			isTable := facts != nil && facts.Tables.Has(p)
			switch {
			case before != nil && !read && !readNow: // unreadable both times: a gap
			case !readNow || a == nil:
				d.count(isTable)
			case isTable && !sameTable(a, b), !isTable && !bytes.Equal(a, b):
				d.count(isTable)
			}
		}
	}
	return d
}

func (d *coreDiff) count(isTable bool) {
	if isTable {
		d.tables++
	} else {
		d.others++
	}
}

// unsettled returns how many pages of a round don't agree with the round before,
// 0 if all do. Where lists and blocks read differently, those are the pages
// other than page tables that differ at all: on which of them it lies can't be
// told, so it may be fewer.
func (d coreDiff) unsettled(before, now *guest.Core, pages phys.Runs) uint64 {
	switch {
	case now == nil:
		return pages.Pages() // nothing could be followed
	case before == nil:
		return max(1, d.tables+d.others)
	case before.Equal(now):
		return d.tables
	default:
		apart := before.Pages.Minus(now.Pages).Pages() + now.Pages.Minus(before.Pages).Pages()
		return max(1, d.tables+d.others, apart)
	}
}
