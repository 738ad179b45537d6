package guardian

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"snap/hv"
	"snap/hv/libvirt"
)

// Bounds on undoing a dump by hand.
const (
	recoverFor  = 30 * time.Second
	lockWait    = 10 * time.Second // for a guardian to end its work
	lockPoll    = 100 * time.Millisecond
	markerTries = time.Second // between two attempts to remove a marker
)

// undo does what the dead process of the run would have done. dir is the folder of
// its state; d is the domain, if it is known already; w may be nil. It tries for the
// given time, and returns what it did.
func (r *Run) undo(ctx context.Context, dir string, d *libvirt.Domain, w *libvirt.Watch, during time.Duration) (did []string, err error) {
	var files []string
	var filesErr error
	var all sync.WaitGroup
	// A file system that hangs must not stand between the guest and its resume.
	all.Go(func() { files, filesErr = r.removeFiles() })
	if r.Holding {
		ctx, cancel := context.WithTimeout(ctx, during)
		defer cancel()
		did, err = r.free(ctx, dir, d, w, during)
	}
	all.Wait()
	for _, f := range files {
		did = append(did, "removed "+f)
	}
	return did, errors.Join(err, filesErr)
}

// free resumes the guest and removes its marker.
func (r *Run) free(ctx context.Context, dir string, d *libvirt.Domain, w *libvirt.Watch, during time.Duration) ([]string, error) {
	if d == nil {
		if r.Why == libvirt.ForJob {
			libvirt.UnblockJob(r.fifo(dir))
		}
		conn, found, err := r.find(ctx)
		if errors.Is(err, hv.ErrNoDomain) {
			return []string{"the domain is gone"}, nil
		}
		if err != nil {
			return nil, fmt.Errorf("domain %q: %w: %w", r.Name, hv.ErrStillPaused, err)
		}
		defer conn.Close()
		d = found
	}
	switch r.Why {
	case libvirt.ForSnapshot:
		return r.abandon(ctx, d, d.AbandonSnapshot, "ended the snapshot")
	case libvirt.ForJob:
		end := func(ctx context.Context) error { return d.AbandonJob(ctx, r.fifo(dir)) }
		return r.abandon(ctx, d, end, "had libvirt let the guest go")
	}
	before, stateErr := d.State(ctx)
	_, err := d.Adopt(r.ID, w, during).Release()
	var did []string
	switch {
	case errors.Is(err, hv.ErrNoDomain), errors.Is(err, hv.ErrNotRunning):
		return []string{"the domain is gone"}, nil
	case errors.Is(err, hv.ErrDisturbed):
		did = append(did, "left the guest as somebody else wants it: "+err.Error())
	case err != nil:
		return nil, err
	case stateErr == nil && before == hv.StatePaused:
		did = append(did, "resumed the guest")
	}
	cleared, err := r.unmark(ctx, d)
	if cleared {
		did = append(did, "removed the mark")
	}
	return did, err
}

// abandon ends what goes on with the guest and removes the marker, if the guest
// bears it: it does from before that until after it.
func (r *Run) abandon(ctx context.Context, d *libvirt.Domain, end func(context.Context) error, what string) ([]string, error) {
	err := end(ctx)
	switch {
	case errors.Is(err, hv.ErrNoDomain), errors.Is(err, hv.ErrNotRunning):
		return []string{"the domain is gone"}, nil
	case err != nil:
		return nil, err
	}
	did := []string{what}
	cleared, err := r.unmark(ctx, d)
	if cleared {
		did = append(did, "removed the mark")
	}
	return did, err
}

// unmark removes the run's marker from the domain.
func (r *Run) unmark(ctx context.Context, d *libvirt.Domain) (cleared bool, err error) {
	for {
		var m *libvirt.Marker
		if m, err = d.Marker(ctx); err == nil {
			if m == nil || m.Run != r.ID {
				return false, nil
			}
			if err = d.ClearMarker(ctx); err == nil {
				return true, nil
			}
		}
		if errors.Is(err, hv.ErrNoDomain) {
			return false, nil
		}
		if s, serr := d.State(ctx); serr == nil && s == hv.StateOff {
			return false, nil // metadata of a run that is over
		}
		select {
		case <-time.After(markerTries):
		case <-ctx.Done():
			return false, err
		}
	}
}

// find connects to the domain. Another run of it, or another domain of that
// name, is none.
func (r *Run) find(ctx context.Context) (*libvirt.Conn, *libvirt.Domain, error) {
	conn, err := libvirt.Connect(ctx, r.URI)
	if err != nil {
		return nil, nil, err
	}
	d, err := conn.LookupDomain(ctx, r.UUID)
	if err == nil {
		if id := d.Identity(); id.UUID != r.UUID || id.ID != r.Instance {
			err = fmt.Errorf("domain %q was started anew: %w", r.Name, hv.ErrNoDomain)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, d, nil
}

// Recovery is what Recover did about one dump.
type Recovery struct {
	Running bool     // its snap is alive: nothing was touched
	Did     []string // in words
}

// Recover undoes a dump whose process, and whose guardian, died. It touches
// nothing of one that runs. The error is hv.ErrStillPaused if the guest may
// still stand.
func Recover(ctx context.Context, dir string, r *Run) (Recovery, error) {
	lock, running, err := r.take(ctx, dir)
	if running || err != nil {
		return Recovery{Running: running}, err
	}
	defer lock.Close()
	if now, err := load(r.path(dir)); err != nil || now.ID != r.ID {
		return Recovery{Did: []string{"its guardian has undone it"}}, nil // or a later dump has the file
	}
	did, err := r.undo(ctx, dir, nil, nil, recoverFor)
	if err != nil {
		r.Trouble = strings.ReplaceAll(err.Error(), "\n", "; ")
		return Recovery{Did: did}, errors.Join(err, r.save(dir))
	}
	return Recovery{Did: did}, r.finish(dir)
}

// RecoverMarked undoes a pause that only the marker m on the domain tells of.
func RecoverMarked(ctx context.Context, dir string, d *libvirt.Domain, m *libvirt.Marker) (Recovery, error) {
	r := runOf(d, m)
	lock, running, err := r.take(ctx, dir)
	if running || err != nil {
		return Recovery{Running: running}, err
	}
	defer lock.Close()
	did, err := r.undo(ctx, dir, d, nil, recoverFor)
	if err != nil {
		return Recovery{Did: did}, err
	}
	return Recovery{Did: did}, r.finish(dir)
}

// runOf is the dump that the marker m on d tells of.
func runOf(d *libvirt.Domain, m *libvirt.Marker) *Run {
	id := d.Identity()
	return &Run{
		ID: m.Run, URI: id.URI, Name: id.Name, UUID: id.UUID, Instance: id.ID, Host: id.Host, Holding: true, Why: m.Why,
		Snap: Process{Host: m.Host, Boot: m.Boot, PID: m.PID, Start: m.Start},
	}
}
