package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"

	"snap/hv"
	"snap/manifest"
	"snap/store"
)

// Preparation is a dump up to where the guest would be touched: what Take begins
// with, and what tells whether it would work. It is for one goroutine.
type Preparation struct {
	// Session is the guest, looked at as it runs; nil if that failed.
	Session *Session
	// Warnings are about the dump that would come of it.
	Warnings []string
	// Degraded says why that dump would be so (Result.Degraded) even if nothing
	// goes wrong.
	Degraded []string

	errs []error
}

// Prepare prepares a dump of vm into the file name of place. It changes nothing. A
// place of nil is none that can be looked at. It goes on after a failure, so that
// what else stands in the way is known too. The caller ends with Close; vm stays
// the caller's.
func Prepare(ctx context.Context, vm hv.VM, place store.Place, name string, o Options) *Preparation {
	p := new(Preparation)
	p.run(ctx, vm, place, name, o, true)
	return p
}

// Err returns what Take would end with, nil if it would go on to take the dump.
func (p *Preparation) Err() error {
	if len(p.errs) == 0 {
		return nil
	}
	return p.errs[0]
}

// Also returns what else stands in the way.
func (p *Preparation) Also() []error { return p.errs[min(1, len(p.errs)):] }

// Close closes the guest's memory. Later calls do nothing.
func (p *Preparation) Close() error {
	s := p.Session
	if s == nil {
		return nil
	}
	p.Session = nil
	return s.Close()
}

// failed notes an error, and reports whether to end with it.
func (p *Preparation) failed(ctx context.Context, err error, all bool) bool {
	if err != nil {
		p.errs = append(p.errs, err)
	}
	return ctx.Err() != nil || err != nil && !all
}

// run takes the steps in their order: those of an operator's own, which cost
// nothing, then those that take a while. Unless it is to find out all, the first
// failure ends it.
func (p *Preparation) run(ctx context.Context, vm hv.VM, place store.Place, name string, o Options, all bool) {
	defer trace.StartRegion(ctx, "prepare").End()
	if place != nil {
		if p.failed(ctx, o.MayCreate(ctx, place, name), all) {
			return
		}
	}
	warnings, err := vm.Warnings(ctx)
	p.Warnings = append(p.Warnings, warnings...)
	if p.failed(ctx, err, all) {
		return
	}
	s, err := Open(ctx, vm, o)
	if p.failed(ctx, err, all) || err != nil {
		return
	}
	p.Session = s
	p.Degraded = append(p.Degraded, s.Analysis.whyDegraded()...)
	if p.failed(ctx, s.MayAcquire(ctx), all) || place == nil {
		return
	}
	warning, err := o.fits(ctx, place, name, s.Analysis.Plan, func() (*Sample, error) { return s.Sample(ctx) })
	if warning != "" {
		p.Warnings = append(p.Warnings, warning)
	}
	p.failed(ctx, err, all)
}

// MayCreate fails if the dump and its account can't have their names.
func (o *Options) MayCreate(ctx context.Context, place store.Place, name string) error {
	if err := place.Check(ctx, name); err != nil {
		return err
	}
	if !o.Manifest {
		return nil
	}
	if err := place.Check(ctx, name+manifest.Suffix); err != nil {
		return &ManifestError{Err: err}
	}
	if o.Signer == nil {
		return nil
	}
	if err := place.Check(ctx, name+manifest.SignatureSuffix); err != nil {
		return &ManifestError{Err: err}
	}
	return nil
}

// prepare is Prepare for Take: the first failure ends it.
func prepare(ctx context.Context, vm hv.VM, place store.Place, name string, o Options) (*Preparation, error) {
	p := new(Preparation)
	p.run(ctx, vm, place, name, o, false)
	if err := p.Err(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := context.Cause(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("look at the guest: %w", err), p.Close())
	}
	return p, nil
}
