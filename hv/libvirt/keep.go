package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// clearFor bounds the removal of a marker at the end of a pause.
const clearFor = 10 * time.Second

var _ hv.Guardable = (*Domain)(nil)

// Guard implements hv.Guardable. PauseByJob has libvirt dump into a gate.
func (d *Domain) Guard(g hv.Guard) { d.kept = &keeping{g} }

// keeping is what stands behind the pauses of a domain.
type keeping struct{ hv.Guard }

// hold gets everything ready that undoes what is about to be done, at ctx's deadline
// if not before.
func (k *keeping) hold(ctx context.Context, d *Domain, why hv.Reason) error {
	until, _ := ctx.Deadline()
	if err := k.Keeper.Hold(ctx, why, until); err != nil {
		return err
	}
	k.Watch.Reset(false)
	m := k.Marker
	m.Why, m.Was, m.Since = why, hv.StateRunning, time.Now().UTC().Truncate(time.Second)
	if err := d.setMarker(ctx, m); err != nil {
		return errors.Join(err, k.free(d))
	}
	return nil
}

// free takes it all away again. If the marker stays, so does the keeper, who
// goes on trying. It fails with a *hv.OverdueError if the keeper did before.
func (k *keeping) free(d *Domain) error {
	ctx, cancel := bounded.Within(context.Background(), clearFor)
	defer cancel()
	err := d.ClearMarker(ctx)
	if err == nil || errors.Is(err, hv.ErrNoDomain) || d.gone(ctx) {
		return k.Keeper.Freed()
	}
	return nil
}

// gone reports whether this run of the domain is known to be over.
func (d *Domain) gone(ctx context.Context) bool {
	s, err := d.status(ctx)
	return errors.Is(err, hv.ErrNoDomain) || err == nil && s.hv().Off()
}

// adopt returns the Hold of a pause that another process made, or was about to
// make when it died. Its Release resumes the guest only if that is what keeps it
// still: the marker of run must be on it, and w, if there is one, must have seen
// no resume; else the error is hv.ErrDisturbed and the guest is left as it is.
// It tries for the given time, through any number of lost connections.
func (d *Domain) adopt(run string, w hv.Watch, during time.Duration) hv.Hold {
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
	if now.Still() && now != hv.StatePaused {
		return fmt.Errorf("domain %q is %s, which is none of our doing, and is left so: %w", h.d.dom.Name, now, hv.ErrDisturbed)
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
