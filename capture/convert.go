package capture

import (
	"context"
	"errors"
	"io"

	"snap/dump/verify"
	"snap/hv"
	"snap/manifest"
	"snap/store"
)

// Convert makes a dump of the guest that src holds, as Take does of a VM. id
// names the guest for the account. src stays the caller's.
//
// A file of memory doesn't say whether the guest stood still while it was made, so
// that nothing is known of the moment: the account's Consistency is
// manifest.NotKnown.
func Convert(ctx context.Context, src hv.Source, id hv.Identity, place store.Place, name string, o Options) (*Result, error) {
	man := newManifest(id, manifest.ModeConvert, &o)
	o.settle(place, name, man)
	return produce(ctx, place, name, &o, man, (*verify.Report).Unmeant, func(w io.Writer) (_ *Result, err error) {
		mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, mem.Close()) }()
		m := &Moment{Memory: mem, ctx: ctx, Account: Account{
			Mode: manifest.ModeConvert, Mechanism: mem.Mechanism(),
			Consistency: manifest.NotKnown, ConsistencyFrom: "the file doesn't say whether the guest stood still",
		}}
		for _, note := range hv.NotesOf(src) {
			m.Account.warn("%s", note)
		}
		if m.CPUs, err = src.Registers(ctx); err != nil {
			return nil, err
		}
		o.tellLook()
		look := o.Look
		look.Published = hv.PublishedOf(src)
		look.ofFile = true
		a, err := Analyze(ctx, mem, mem.RAM(), m.CPUs, look)
		if err != nil {
			return nil, err
		}
		warning, err := o.fits(ctx, place, name, a.Plan, func() (*Sample, error) {
			set, _, err := mem.Populated(ctx)
			if err != nil {
				return nil, err
			}
			return sampleDump(ctx, mem, a.Plan, set, o.writeOptions())
		})
		if err != nil {
			return nil, err
		}
		if warning != "" {
			m.Account.warn("%s", warning)
		}
		return o.writeMoment(m, a, w, man)
	})
}
