package main

import (
	"context"
	"runtime/trace"

	"snap/capture"
	"snap/hv"
	"snap/hv/guardian"
	"snap/store"
)

// approach is a dump on its way to the guest: what snap dump does before it looks
// into the guest's memory, and what snap check does to tell whether that would
// work. Both go the same way, so that the one ends with the other's exit code.
type approach struct {
	vm      hv.VM
	id      hv.Identity
	state   hv.State
	held    *held       // what stands behind the dump; nil for snap check
	place   store.Place // nil if there is none
	file    string      // the dump's name there
	closeVM func()

	// errs are what is in the way, in the order in which it was met.
	errs []error
	// readable: nothing forbids looking into the guest's memory.
	readable bool
}

// approach finds the domain and the destination, of which it tells o, and locks the
// domain by lock. If all is false the first failure ends it; else only that there is no
// domain does. The error is the first of approach.errs. The caller ends with
// approach.close.
func (a *app) approach(ctx context.Context, ref string, f *dumpFlags, o *capture.Options, lock func(context.Context, hv.VM) (*held, error), all bool) (*approach, error) {
	defer trace.StartRegion(ctx, "approach").End()
	connecting := trace.StartRegion(ctx, "connect")
	vm, closeVM, err := a.openDomain(ctx, ref)
	connecting.End()
	if err != nil {
		return nil, err
	}
	p := &approach{vm: vm, id: vm.Identity(), closeVM: closeVM}
	var to *target
	for _, step := range []func() error{
		func() error {
			var err error
			p.state, err = readable(ctx, vm)
			p.readable = err == nil
			return busyWithDump(vm, err)
		},
		func() (err error) {
			to, err = f.file.target(a, ofDomain(p.id.Name), o)
			return err
		},
		func() (err error) {
			defer trace.StartRegion(ctx, "lock").End()
			if p.held, err = lock(ctx, vm); err != nil {
				p.held = nil
			}
			return err
		},
		func() error {
			if to == nil {
				return nil // that was said
			}
			place, file, err := to.open(a, store.Options{Force: f.file.force, Guardian: p.held.fileGuardian()})
			if err == nil {
				p.place, p.file = place, file
			}
			return err
		},
		func() error { return f.file.account.check(ctx) },
	} {
		if err := step(); err != nil {
			p.errs = append(p.errs, err)
			if !all {
				return p, err
			}
		}
	}
	return p, p.err()
}

// output is where the dump is going to be, empty if that is not known yet.
func (p *approach) output() string {
	if p.place == nil {
		return ""
	}
	return p.place.Path(p.file)
}

// err is what a dump would end with.
func (p *approach) err() error {
	if len(p.errs) == 0 {
		return nil
	}
	return p.errs[0]
}

// close lets go of the guardian, the lock and the domain. err is what came of the
// dump; the result is err with the reason for it if that is the domain's end.
func (p *approach) close(err error) error {
	err = p.held.end(err)
	p.closeVM()
	return err
}

// lookAtLock is held's place in snap check: it locks nothing.
func lookAtLock(_ context.Context, vm hv.VM) (*held, error) {
	if _, ok := vm.(hv.Guardable); !ok {
		return nil, nil
	}
	return nil, guardian.Running(vm.Identity())
}
