package guest

import (
	"context"
	"errors"
	"fmt"

	"snap/phys"
)

// maxWitnesses bounds how many page tables that do map a KUSER_SHARED_DATA are
// searched for a kernel.
const maxWitnesses = 16

// Discover finds the Windows guest in mem, of which only ram is read. cpus are
// the registers of its virtual processors, in any order; none are needed if
// the memory itself leads to the page tables. Without a Windows that is
// understood the error is of class ErrNotWindows or ErrFiveLevel, and says
// what was tried; where memory could not be read, it is the reader's instead.
// Both but ErrFiveLevel are of type *NotFoundError.
//
// Finders are the ways in which it looks, and System.Attempts says which of
// them succeeded. Whatever leads to the kernel, a processor in whichever process
// and mode or a scan of RAM, the page tables of the result are the System
// process's.
func Discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*System, error) {
	return discover(ctx, mem, ram, cpus, finders())
}

// discover is Discover by the given finders, of each architecture in turn.
func discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers, by []finder) (*System, error) {
	if err := fiveLevel(cpus); err != nil {
		return nil, err
	}
	watched := &watchedReader{Reader: mem}
	var tried attempts
	for _, arch := range Archs() {
		d := &discovery{
			arch: arch, mem: watched, ram: ram, cpus: cpus, search: newKernelSearch(), tried: &tried,
			seen: map[phys.Addr]bool{}, barren: map[kernelHalf]string{}, blocks: map[kernelIn]foundBlocks{},
		}
		if err := d.run(ctx, by); err != nil || d.found != nil {
			return d.found, err
		}
	}
	return nil, &NotFoundError{
		Attempts: tried.list, More: tried.more, FailedReads: watched.failed, ReadErr: watched.err,
	}
}

// discovery is the state of one Discover, of one architecture.
type discovery struct {
	arch   *Arch
	mem    *watchedReader
	ram    phys.Runs
	cpus   []phys.Registers
	search *kernelSearch

	seen      map[phys.Addr]bool    // top-level tables
	barren    map[kernelHalf]string // those without a kernel, and who had them
	blocks    map[kernelIn]foundBlocks
	witnesses int
	tried     *attempts // of all architectures
	found     *System
}

// watchedReader keeps the first error of a reader that isn't about the guest's
// own doing. It is for one goroutine.
type watchedReader struct {
	phys.Reader
	err    error
	failed int
}

func (r *watchedReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	err := r.Reader.ReadPhys(ctx, p, at)
	if err != nil && !errors.Is(err, phys.ErrNotRAM) {
		r.failed++
		if r.err == nil {
			r.err = err
		}
	}
	return err
}

// run tries the finders in turn until one leads to the guest.
func (d *discovery) run(ctx context.Context, by []finder) error {
	for _, f := range by {
		var tryErr error
		note, err := f.find(ctx, d, func(c candidate) bool {
			tryErr = d.try(ctx, f.Finder, c)
			return tryErr == nil && d.found == nil && d.witnesses < maxWitnesses
		})
		if err := errors.Join(err, tryErr); err != nil || d.found != nil {
			return err
		}
		if note != "" {
			d.tried.note(f.Finder, note)
		}
	}
	return nil
}

// try looks for the guest in the page table of c. It fails only when ctx ends;
// what is wrong with the candidate is noted.
func (d *discovery) try(ctx context.Context, f Finder, c candidate) error {
	if d.seen[c.root] || d.witnesses >= maxWitnesses {
		return nil
	}
	d.seen[c.root] = true
	sys, err := d.follow(ctx, c)
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("look for Windows: %w", ctxErr)
	}
	a := Attempt{Finder: f.Name, What: c.from, Root: c.root, Err: err}
	if err != nil {
		d.tried.add(a)
		return nil
	}
	sys.Attempts = d.tried.with(a)
	d.found = sys
	return nil
}
