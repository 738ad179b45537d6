package lab

import (
	"context"
	"errors"
	"sync"
)

// UpBeside starts a guest as Up does, but beside its caller, for one that starts
// slowly. From when it is ready until it is waited for it stands still, so that it
// takes no processor's time from what else is done. Once begun, it must be waited for:
// wait returns the same guest, which is the caller's to end, each time.
func UpBeside(ctx context.Context, s Spec) (wait func() (*Guest, error)) {
	var g *Guest
	var err error
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		if g, err = Up(ctx, s); err == nil {
			_, err = g.Virsh(ctx, "suspend", g.Name)
		}
	}()
	return sync.OnceValues(func() (*Guest, error) {
		<-ready
		if err == nil {
			_, err = g.Virsh(ctx, "resume", g.Name)
		}
		if err != nil && g != nil {
			err = errors.Join(err, g.Down())
		}
		if err != nil {
			return nil, err
		}
		return g, nil
	})
}
