package libvirt

import (
	"context"
	"time"

	"snap/hv"
)

// Undo implements hv.Guardable. A resume that was begun is not given up when ctx is
// cancelled, only at its deadline.
func (d *Domain) Undo(ctx context.Context, l hv.Left) (did string, err error) {
	switch l.Why {
	case hv.ForSnapshot:
		did, err = "ended the snapshot", d.abandonSnapshot(ctx)
	case hv.ForJob:
		did, err = "had libvirt let the guest go", d.abandonJob(ctx)
	default:
		did, err = d.abandonPause(ctx, l)
	}
	if err != nil {
		return "", err
	}
	return did, nil
}

// abandonPause resumes a guest that a process that died had suspended.
func (d *Domain) abandonPause(ctx context.Context, l hv.Left) (did string, err error) {
	during := d.limits().resumeFor
	if end, ok := ctx.Deadline(); ok {
		during = time.Until(end)
	}
	before, stateErr := d.State(ctx)
	_, err = d.adopt(l.Run, l.Watch, during).Release()
	if err == nil && stateErr == nil && before == hv.StatePaused {
		did = "resumed the guest"
	}
	return did, err
}
