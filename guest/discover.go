package guest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"snap/phys"
)

// Discover finds the Windows guest in mem, of which only ram is read. cpus are
// the registers of its virtual processors, in any order; none are needed if
// the memory itself leads to the page tables. Without a Windows that is
// understood the error is of class ErrNotWindows and says the likeliest reason;
// where memory could not be read, it is the reader's instead. Both are of type
// *NotFoundError.
//
// Where all processors are in firmware, no Windows runs, and where they are in 32-bit
// mode, no 64-bit one: memory is not searched for what an earlier boot may have left
// there.
//
// The work is bounded whatever the guest has in its memory: a search that ends at
// a limit says so in its attempt.
//
// Finders are the ways in which it looks, and System.Attempts says which of
// them succeeded. Whatever leads to the kernel, a processor in whichever process
// and mode or a scan of RAM, the page tables of the result are the System
// process's.
func Discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*System, error) {
	return discover(ctx, mem, ram, cpus, finders(), Options{})
}

// Options say how to look for a guest. The zero value is the default.
type Options struct {
	// Scanned, unless nil, hears how far a scan of RAM is, in bytes: the last
	// resort, where neither registers nor what Windows leaves in low memory help.
	// It is called from one goroutine, after each MiB or so.
	Scanned func(done, total uint64)

	// Published is what the guest handed to its hypervisor for dumps, the descriptor of
	// its vmcoreinfo note; empty where nothing is known of one. It may lead to the
	// guest, and System.Published says whether it agrees with what was found.
	Published []byte
}

// Discover is Discover with options.
func (o Options) Discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*System, error) {
	return discover(ctx, mem, ram, cpus, finders(), o)
}

// discover is Discover by the given finders, of each architecture in turn.
func discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers, by []finder, o Options) (*System, error) {
	watched := &watchedReader{Reader: mem}
	var tried attempts
	none := &NotFoundError{}
	for _, arch := range archsOf(cpus) {
		d := newDiscovery(arch, watched, ram, cpus, len(by), &tried)
		d.scanned, d.published = o.Scanned, o.Published
		reason, why := d.diagnose(ctx, true)
		certain := reason != ""
		if certain {
			for _, f := range by {
				tried.note(f.Finder, errNotTried)
			}
		} else {
			if err := d.run(ctx, by); err != nil || d.found != nil {
				if d.found != nil {
					d.found.comparePublished(o.Published)
				}
				return d.found, err
			}
			reason, why = d.diagnose(ctx, false)
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("look for Windows: %w", err)
		}
		if none.Reason == "" || none.Reason == ReasonUnknown {
			none.Reason, none.Why, none.PassedOver, none.Ended = reason, why, d.search.passed.list, d.anyEnded
		}
		if certain {
			break
		}
	}
	none.Attempts, none.More, none.FailedReads, none.ReadErr = tried.list, tried.more, watched.failed, watched.err
	if none.ReadErr != nil {
		none.Reason, none.Why = ReasonUnreadable, ""
	}
	return nil, none
}

// archsOf returns the architectures whose Windows may run on processors. Code, or a
// table, that is beyond 4 GiB is of 64 bits, whatever else is known of its processor.
func archsOf(cpus []phys.Registers) []*Arch {
	mode, _ := furthest(cpus)
	for i := range cpus {
		if c := &cpus[i]; mode == modeUnknown && (c.RIP|c.IDT.Base|c.GDT.Base|c.LSTAR)>>32 != 0 {
			mode = modeLong
		}
	}
	return slices.DeleteFunc(Archs(), func(a *Arch) bool { return !a.runsIn(mode) })
}

// errNotTried is the result of a finder where it is certain without it that no
// Windows runs.
var errNotTried = errors.New("not tried")

// discovery is the state of one Discover, of one architecture.
type discovery struct {
	arch *Arch
	// pagings are arch's, those that the processors use first.
	pagings []*Paging

	mem    *watchedReader
	ram    phys.Runs
	cpus   []phys.Registers
	budget *budget
	search *kernelSearch
	// scanned hears how far a scan of RAM is; nil for nobody.
	scanned   func(done, total uint64)
	published []byte // Options.Published

	seen     map[builtAs]bool      // top-level tables
	barren   map[kernelHalf]string // those without a kernel, and who had them
	searches map[kernelIn]*kdbgSearch
	tried    *attempts // of all architectures
	ended    error     // why the running finder may not try more, of class errBudget
	// anyEnded: some search ended at a limit.
	anyEnded bool
	// astray is what looks like Windows' page tables by a wrong RAM map.
	astray string
	// windows: a page table maps what only Windows maps, KUSER_SHARED_DATA.
	windows bool
	found   *System
	second  *fallback // the best of those that lack something
}

func newDiscovery(arch *Arch, mem *watchedReader, ram phys.Runs, cpus []phys.Registers, finders int, tried *attempts) *discovery {
	b := newBudget(finders)
	return &discovery{
		arch: arch, pagings: witnessed(arch, cpus), mem: mem, ram: ram, cpus: cpus, budget: b, search: newKernelSearch(mem, ram, b), tried: tried,
		seen: map[builtAs]bool{}, barren: map[kernelHalf]string{}, searches: map[kernelIn]*kdbgSearch{},
	}
}

// witnessed returns the pagings of an architecture, those first that processors say
// they use. None is left out: a processor may be in a hypervisor inside the guest,
// which pages as it likes.
func witnessed(arch *Arch, cpus []phys.Registers) []*Paging {
	var out []*Paging
	add := func(list []*Paging) {
		for _, p := range list {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	for i := range cpus {
		add(arch.pagingsOf(&cpus[i]))
	}
	add(arch.pagings)
	return out
}

// watchedReader keeps the first error of a reader that isn't about the guest's
// own doing. It caches as far as that does. It is for one goroutine.
type watchedReader struct {
	phys.Reader
	err    error
	failed int
}

func (r *watchedReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return r.watch(r.Reader.ReadPhys(ctx, p, at))
}

// ReadAnew implements phys.Caching.
func (r *watchedReader) ReadAnew(ctx context.Context, p []byte, at phys.Addr) error {
	return r.watch(phys.Anew(r.Reader).ReadPhys(ctx, p, at))
}

// Prefetch implements phys.Caching. What fails is watched when it is asked for.
func (r *watchedReader) Prefetch(ctx context.Context, pages iter.Seq[phys.Run]) {
	phys.Prefetch(ctx, r.Reader, pages)
}

func (r *watchedReader) watch(err error) error {
	if err != nil && !errors.Is(err, phys.ErrNotRAM) {
		if r.failed++; r.err == nil {
			r.err = err
		}
	}
	return err
}

// add keeps what others kept.
func (r *watchedReader) add(o *watchedReader) {
	r.failed += o.failed
	if r.err == nil {
		r.err = o.err
	}
}

// run tries the finders in turn until one leads to the guest.
func (d *discovery) run(ctx context.Context, by []finder) error {
	for i, f := range by {
		if f.readsAll && d.second != nil && d.second.byProcessor {
			break // the guest runs by it: no other one is in the rest of its memory
		}
		if i > 0 {
			d.budget.next()
		}
		d.ended = nil
		var tryErr error
		note, err := f.find(ctx, d, func(c candidate) bool {
			tryErr = d.try(ctx, f, c)
			return tryErr == nil && d.found == nil && d.ended == nil
		})
		if err := errors.Join(err, tryErr); err != nil || d.found != nil {
			return err
		}
		switch {
		case d.ended != nil:
			d.anyEnded = true
			d.tried.note(f.Finder, d.ended)
		case note != "":
			d.tried.note(f.Finder, errors.New(note))
		}
	}
	if d.second != nil {
		d.found = d.second.sys
		d.found.Attempts = d.tried.without(d.second.attempt).with(d.second.attempt)
		d.found.match(ctx, d.cpus)
	}
	return ctx.Err()
}

// builtAs is a top-level table, as it is read by one paging.
type builtAs struct {
	root   phys.Addr
	paging *Paging
}

// try looks for the guest in the page table of c, by each paging that it was not
// tried with yet. It fails only when ctx ends; what is wrong with the candidate is
// noted.
func (d *discovery) try(ctx context.Context, f finder, c candidate) error {
	if c.pagings == nil {
		c.pagings = d.pagings
	}
	c.pagings = slices.DeleteFunc(slices.Clone(c.pagings), func(p *Paging) bool { return d.seen[builtAs{c.root, p}] })
	if len(c.pagings) == 0 || d.ended != nil {
		return nil
	}
	if d.ended = d.budget.spend(workCandidates, 1); d.ended != nil {
		return nil
	}
	for _, p := range c.pagings {
		d.seen[builtAs{c.root, p}] = true
	}
	before := d.second
	sys, err := d.follow(ctx, c)
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("look for Windows: %w", ctxErr)
	}
	a := Attempt{Finder: f.Name, What: c.from, Root: c.root, Err: err}
	if d.second != before {
		d.second.attempt, d.second.byProcessor = Attempt{Finder: f.Name, What: c.from, Root: c.root}, f.byProcessor
	}
	if err != nil {
		if d.astray == "" && !d.windows {
			d.astray = d.leadsAstray(ctx, c)
		}
		d.anyEnded = d.anyEnded || errors.Is(err, errBudget)
		d.tried.add(a)
		return nil
	}
	sys.Attempts = d.tried.with(a)
	sys.match(ctx, d.cpus)
	d.found = sys
	return nil
}
