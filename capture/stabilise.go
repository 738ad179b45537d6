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

// stabiliseCaps bound what is done for kernel metadata that doesn't come to rest.
type stabiliseCaps struct {
	pages  uint64 // a copy of them is kept, and another one while they are read again
	rounds int
	time   time.Duration // after which no other round begins
}

// defaultCaps: 64 Ki page tables map 128 GiB of kernel memory by 4 KiB pages,
// and take 256 MiB.
var defaultCaps = stabiliseCaps{pages: 1 << 16, rounds: 16, time: 10 * time.Second}

// stabilise reads the kernel metadata of a running guest in rounds until two agree, and
// returns base with the pages of the last round in it, the registers that were
// asked for during that round, and how it went. mem is the guest's memory; base
// is mem, or a copy of it. The caller closes the result.
//
// Which pages those are follows from the round before: each round reads them
// anew and then follows tables and lists through what it read. Two rounds agree
// if
//
//   - the page tables have the same entries, but for bits that don't say where an
//     entry leads (guest.Paging.SameTable), and
//   - all else reads the same: the kernel, the KDBG, the processors' blocks, the
//     memory ranges, each module and each process in the order of its list, which
//     page everything lies on, and where a list is broken, how.
//
// Bytes on the same pages that say nothing of that, such as counters and times,
// may differ: on Windows they always do. Whatever agrees was read once before the
// last round began and once after, with the same result; so unless it changed and
// changed back, it is of one point in time, that moment.
func (s *Session) stabilise(ctx context.Context, mem, base hv.Memory) (out *stableMemory, cpus []phys.Registers, md Metadata, err error) {
	out = &stableMemory{Memory: base}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	caps := s.Options.caps
	if caps == (stabiliseCaps{}) {
		caps = defaultCaps
	}
	protected, _ := s.Analysis.System.Protected(ctx) // what could not be followed is met again below
	if ctx.Err() != nil {
		return out, nil, md, context.Cause(ctx)
	}
	first := guest.MetadataOf(protected)
	md.Pages = first.Pages.Pages()
	pages := first.Pages
	var last *guest.Metadata
	for began := time.Now(); ; {
		if pages.Pages() > caps.pages {
			md.Unstable = pages.Pages()
			if cpus == nil {
				cpus, err = s.VM.Registers(ctx)
			}
			return out, cpus, md, err
		}
		var fresh *memoryCopy
		if fresh, cpus, err = s.readMetadata(ctx, mem, pages); err != nil {
			return out, nil, md, err
		}
		md.Rounds++
		md.Pages = pages.Pages()
		d := compareReadings(s.Analysis.System.Space.Paging().SameTable, out.metadata, fresh, last)
		if err = out.replace(fresh); err != nil {
			return out, nil, md, err
		}
		var facts *guest.Metadata
		lookErr := lookAt(ctx, out, func(look phys.Reader) (err error) {
			facts, err = guest.ReadMetadata(ctx, look, mem.RAM(), cpus)
			return err
		})
		if errors.Is(lookErr, hv.ErrNotRunning) || errors.Is(lookErr, hv.ErrUnreachable) {
			return out, nil, md, lookErr
		}
		if ctx.Err() != nil {
			return out, nil, md, context.Cause(ctx)
		}
		if lookErr != nil {
			facts = nil
			s.Options.debug(ctx, "kernel metadata not understood", "round", md.Rounds, "why", lookErr)
		}
		md.Unstable = d.unstable(last, facts, pages)
		if md.Unstable == 0 || md.Rounds >= caps.rounds || time.Since(began) >= caps.time {
			return out, cpus, md, nil
		}
		if last = facts; facts != nil {
			pages = facts.Pages
		}
	}
}

// readMetadata copies pages of the running guest, and asks for its registers
// meanwhile.
func (s *Session) readMetadata(ctx context.Context, mem hv.Memory, pages phys.Runs) (c *memoryCopy, cpus []phys.Registers, err error) {
	memory, err := newHostMemory(pages.Pages() << phys.PageShift)
	if err != nil {
		return nil, nil, err
	}
	if c, err = newMemoryCopy(memory, mem, pages, true); err != nil {
		return nil, nil, errors.Join(err, memory.free())
	}
	var asked errgroup.Group
	asked.Go(func() (err error) {
		cpus, err = s.VM.Registers(ctx)
		return err
	})
	err = c.fill(ctx, mem, s.Options.workers())
	if err = errors.Join(err, asked.Wait()); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, cpus, nil
}

// readingDiff is how two readings of kernel metadata differ.
type readingDiff struct {
	tables uint64 // page tables that lead elsewhere, or were not read before
	others uint64 // all other pages that differ in any byte
}

// compareReadings holds the pages of two rounds against each other; facts say which
// pages of the second are page tables, and are nil if nothing does. sameTable
// compares those.
func compareReadings(sameTable func(a, b []byte) bool, before, now *memoryCopy, facts *guest.Metadata) readingDiff {
	var d readingDiff
	for _, r := range now.index.Set() {
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

func (d *readingDiff) count(isTable bool) {
	if isTable {
		d.tables++
	} else {
		d.others++
	}
}

// unstable returns how many pages of a round don't agree with the round before,
// 0 if all do. Where lists and blocks read differently, those are the pages
// other than page tables that differ at all: on which of them it lies can't be
// told, so it may be fewer.
func (d readingDiff) unstable(before, now *guest.Metadata, pages phys.Runs) uint64 {
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
