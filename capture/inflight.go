package capture

import (
	"context"
	"fmt"
	"runtime/trace"

	"snap/dump"
	"snap/dump/verify"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// settle adapts the options to the place that the dump goes to, and its name there. Where nothing can be
// read back, all of the dump is verified on its way: every frame is decoded as soon as
// it is made, and the guest is looked up in the pages that are about to be written.
func (o *Options) settle(place store.Place, name string, man *manifest.Manifest) {
	o.Write.Name = name
	o.inFlight = !place.ReadsBack()
	if o.inFlight && o.Write.Verification == dump.VerifyStored {
		o.Write.Verification = dump.VerifyDecoded
		man.Warn("%s can't be read back, so every frame is expanded and compared as it is made, as with --verify %s", placeName(place.Path(name)), dump.VerifyDecoded)
	}
}

// checkInFlight makes the checks of a dump that can't be read back, before it is
// written: on a dump of the plan's pages. ok is false if there are faults, which are in
// the account then; without inFlight it is true. mem must not change, or keep the pages
// that are read (keptMemory).
func (o *Options) checkInFlight(ctx context.Context, mem phys.Reader, plan *dump.Plan, man *manifest.Manifest, faults func(*verify.Report) []verify.Check) (ok bool, err error) {
	if !o.inFlight {
		return true, nil
	}
	defer trace.StartRegion(ctx, "verify").End()
	var rep *verify.Report
	err = lookAt(ctx, mem, func(look phys.Reader) error {
		d, err := dump.Preview(ctx, look, plan)
		if err != nil {
			return err
		}
		rep, err = verify.Verify(ctx, d, verify.Options{SkipFrames: true})
		return err
	})
	if err != nil {
		return false, fmt.Errorf("verify what is about to be written: %w", err)
	}
	return o.judge(rep, manifest.VerifiedInFlight, man, faults)
}
