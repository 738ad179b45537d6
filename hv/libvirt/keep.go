package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/hv"
)

// clearFor bounds the removal of a marker at the end of a pause.
const clearFor = 10 * time.Second

// Reason is why a guest is held, or what of it.
type Reason string

// Reasons.
const (
	ForPause    Reason = "pause"    // it is suspended
	ForJob      Reason = "job"      // a job of libvirt's holds it still
	ForSnapshot Reason = "snapshot" // QEMU saves it while it runs
)

// Keeper undoes in this process's stead, should it die, what was done to a guest.
type Keeper interface {
	// Hold is called before anything is done to the guest. If it fails nobody
	// would undo it, and so it isn't done.
	Hold(ctx context.Context, why Reason) error
	// Freed is called when all is undone, or the guest has ended, and its marker
	// is gone.
	Freed()
}

// keeping is what stands behind the pauses of a domain.
type keeping struct {
	keeper Keeper
	marker Marker
	watch  *Watch
	fifo   string // that a job may be made to wait at
}

// Guard has every later Pause and Snapshot stand under k, and under the marker m
// on the domain. w, which stays the caller's, tells a pause whether somebody else
// resumed the guest meanwhile, also one that somebody else had paused; Release
// then fails with hv.ErrDisturbed and leaves the guest as it is. fifo is a path
// at which PauseByJob may make one; it is removed again, but by k if this process
// dies. Call it before anything else uses d.
func (d *Domain) Guard(k Keeper, m Marker, w *Watch, fifo string) {
	d.kept = &keeping{keeper: k, marker: m, watch: w, fifo: fifo}
}

// hold gets everything ready that undoes what is about to be done.
func (k *keeping) hold(ctx context.Context, d *Domain, why Reason) error {
	if err := k.keeper.Hold(ctx, why); err != nil {
		return err
	}
	k.watch.Reset()
	m := k.marker
	m.Why, m.Since = why, time.Now().UTC().Truncate(time.Second)
	if err := d.SetMarker(ctx, m); err != nil {
		k.free(d)
		return err
	}
	return nil
}

// free takes it all away again. If the marker stays, so does the keeper, who
// goes on trying.
func (k *keeping) free(d *Domain) {
	ctx, cancel := within(context.Background(), clearFor)
	defer cancel()
	err := d.ClearMarker(ctx)
	if err == nil || errors.Is(err, hv.ErrNoDomain) || d.gone(ctx) {
		k.keeper.Freed()
	}
}

// gone reports whether this run of the domain is known to be over.
func (d *Domain) gone(ctx context.Context) bool {
	s, err := d.status(ctx)
	return errors.Is(err, hv.ErrNoDomain) || err == nil && stateOf(s.state) == hv.StateOff
}

// Adopt returns the Hold of a pause that another process made, or was about to
// make when it died. Its Release resumes the guest only if that is what keeps it
// still: the marker of run must be on it, and w, if there is one, must have seen
// no resume; else the error is hv.ErrDisturbed and the guest is left as it is.
// It tries for the given time, through any number of lost connections.
func (d *Domain) Adopt(run string, w *Watch, during time.Duration) hv.Hold {
	h := &hold{d: d, began: time.Now(), unsure: true, run: run, watch: w, limits: d.limits()}
	h.limits.resumeFor = during
	return h
}

// ours fails with hv.ErrDisturbed unless the pause that the guest is found in is
// the one that h made or adopted.
func (h *hold) ours(ctx context.Context, now hv.State) error {
	if h.asked {
		return nil // a resume that was seen may be our own
	}
	if h.watch != nil && (h.watch.Resumed() || now == hv.StateRunning) {
		return fmt.Errorf("domain %q: somebody resumed it: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	if h.run == "" {
		return nil
	}
	m, err := run(ctx, h.session, h.d.readMarker)
	if err != nil {
		return classify(err)
	}
	if m == nil || m.Run != h.run {
		return fmt.Errorf("domain %q: it does not bear our mark: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	return nil
}
