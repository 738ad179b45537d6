package guardian

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"snap/hv"
)

// Bounds on undoing a dump by hand.
const (
	recoverFor  = 30 * time.Second
	lockWait    = 10 * time.Second // for a guardian to end its work
	lockPoll    = 100 * time.Millisecond
	markerTries = time.Second // between two attempts to remove a marker
)

// reach gets the VM of a run that is to be undone, and who followed it meanwhile,
// nil if nobody did. The caller calls done when all is undone. Another run of the
// domain, or another domain of its name, is hv.ErrNoDomain.
type reach func(ctx context.Context, r *Run, dir string) (vm hv.Guardable, w hv.Watch, done func(), err error)

// known reaches a VM that is there already. It stays the caller's.
func known(vm hv.Guardable, w hv.Watch) reach {
	return func(context.Context, *Run, string) (hv.Guardable, hv.Watch, func(), error) {
		return vm, w, func() {}, nil
	}
}

// by reaches a VM over a connection of its own.
func by(connect Connect) reach {
	return func(ctx context.Context, r *Run, dir string) (hv.Guardable, hv.Watch, func(), error) {
		conn, vm, err := r.find(ctx, connect)
		if err != nil {
			return nil, nil, nil, err
		}
		return vm, nil, func() { _, _ = vm.Close(), conn.Close() }, nil // all is done
	}
}

// undo does what the dead process of the run would have done, to the VM that get
// gets. dir is the folder of its state. It tries for the given time, and returns
// what it did.
func (r *Run) undo(ctx context.Context, dir string, get reach, during time.Duration) (did []string, err error) {
	var files []string
	var filesErr error
	var all sync.WaitGroup
	// A file system that hangs must not stand between the guest and its resume.
	all.Go(func() { files, filesErr = r.removeFilesWithin(filesFor) })
	if r.Holding {
		ctx, cancel := context.WithTimeout(ctx, during)
		defer cancel()
		did, err = r.free(ctx, dir, get)
	}
	all.Wait()
	for _, f := range files {
		did = append(did, "removed "+f)
	}
	if err == nil && filesErr != nil {
		return did, &FilesError{filesErr}
	}
	return did, errors.Join(err, filesErr)
}

// gone is what is said of a domain that has ended since: nothing is left to undo.
const gone = "the domain is gone"

// free has the guest run as it did before the dump, and removes its marker.
func (r *Run) free(ctx context.Context, dir string, get reach) (did []string, err error) {
	vm, w, done, err := get(ctx, r, dir)
	if errors.Is(err, hv.ErrNoDomain) {
		return []string{gone}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w: %w", r.Name, hv.ErrStillPaused, err)
	}
	defer done()
	what, err := vm.Undo(ctx, hv.Left{Run: r.ID, Why: r.Why, Watch: w})
	switch {
	case errors.Is(err, hv.ErrNoDomain), errors.Is(err, hv.ErrNotRunning):
		return []string{gone}, nil
	case errors.Is(err, hv.ErrDisturbed):
		did = append(did, "left the guest as somebody else wants it: "+err.Error())
	case err != nil:
		return nil, err
	case what != "":
		did = append(did, what)
	}
	// The guest bears the marker from before what was undone until after it.
	cleared, err := r.unmark(ctx, vm)
	if cleared {
		did = append(did, "removed the mark")
	}
	return did, err
}

// unmark removes the run's marker from the domain.
func (r *Run) unmark(ctx context.Context, vm hv.Guardable) (cleared bool, err error) {
	for {
		var m *hv.Marker
		if m, err = vm.Marker(ctx); err == nil {
			if m == nil || m.Run != r.ID {
				return false, nil
			}
			if err = vm.ClearMarker(ctx); err == nil {
				return true, nil
			}
		}
		if errors.Is(err, hv.ErrNoDomain) {
			return false, nil
		}
		if s, serr := vm.State(ctx); serr == nil && s.Off() {
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
func (r *Run) find(ctx context.Context, connect Connect) (hv.Connection, hv.Guardable, error) {
	conn, err := connect(ctx, r.URI)
	if err != nil {
		return nil, nil, err
	}
	vm, err := conn.Lookup(ctx, r.UUID)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	g, ok := vm.(hv.Guardable)
	id := vm.Identity()
	switch {
	case !ok:
		err = fmt.Errorf("domain %q on %s: %w: this process alone can undo what it does to it", r.Name, r.URI, hv.ErrUnsupported)
	case id.UUID != r.UUID || id.ID != r.Instance:
		err = fmt.Errorf("domain %q was started anew: %w", r.Name, hv.ErrNoDomain)
	default:
		return conn, g, nil
	}
	return nil, nil, errors.Join(err, vm.Close(), conn.Close())
}

// Recovery is what Recover did about one dump.
type Recovery struct {
	Running bool     // its snap is alive, as far as can be told: nothing was touched
	Who     string   // which process that is, or was
	Did     []string // in words
}

// Recover undoes a dump whose process, and whose guardian, died. It touches
// nothing of one that runs. dir is the folder of r's state (Dir), and connect opens
// the way to its domain. With force it counts as dead, whatever its process seems to
// do, unless the domain's lock says otherwise, and partial files that can't be removed
// are forgotten. The error is hv.ErrStillPaused if the guest may still stand.
func Recover(ctx context.Context, connect Connect, dir string, r *Run, force bool) (Recovery, error) {
	lock, running, err := r.claim(ctx, dir, force)
	if running || err != nil {
		return Recovery{Running: running, Who: r.Snap.String()}, err
	}
	defer lock.Close()
	if now, err := load(r.path(dir)); err != nil || now.ID != r.ID {
		return Recovery{Did: []string{"its guardian has undone it"}}, nil // or a later dump has the file
	}
	did, err := r.undo(ctx, dir, by(connect), recoverFor)
	if left, ok := errors.AsType[*FilesError](err); ok && force {
		did, err = append(did, "forgot what could not be removed: "+strings.ReplaceAll(left.Error(), "\n", "; ")), nil
	}
	if err != nil {
		r.setTrouble(err)
		return Recovery{Did: did}, errors.Join(err, r.save(dir))
	}
	return Recovery{Did: did}, r.finish(dir)
}

// RecoverMarked is Recover of a dump that only the marker m on vm tells of. With force
// a marker that can't be believed is removed, and nothing else is done.
func RecoverMarked(ctx context.Context, dir string, vm hv.Guardable, m *hv.Marker, force bool) (Recovery, error) {
	r, err := runOf(vm, m)
	if err != nil && force {
		return RemoveMark(ctx, vm)
	}
	if err != nil {
		return Recovery{}, err
	}
	lock, running, err := r.claim(ctx, dir, force)
	if running || err != nil {
		return Recovery{Running: running, Who: r.Snap.String()}, err
	}
	defer lock.Close()
	did, err := r.undo(ctx, dir, known(vm, nil), recoverFor)
	if err != nil {
		return Recovery{Did: did}, err
	}
	return Recovery{Did: did}, r.finish(dir)
}

// RemoveMark removes a mark that can't be believed from vm.
func RemoveMark(ctx context.Context, vm hv.Guardable) (Recovery, error) {
	if err := vm.ClearMarker(ctx); err != nil {
		return Recovery{}, err
	}
	return Recovery{Did: []string{"removed a mark that no dump made, and left the guest as it is"}}, nil
}

// runOf is the dump that the marker m on vm tells of. What stands in a marker was
// written by whoever may change the domain: a run that it makes up leads to no
// file, and to no domain but the one that bears it.
func runOf(vm hv.Guardable, m *hv.Marker) (*Run, error) {
	id := vm.Identity()
	if err := checkMarker(m); err != nil {
		return nil, Unbelieved(vm, err)
	}
	return &Run{
		ID: m.Run, URI: id.URI, Name: id.Name, UUID: id.UUID, Instance: id.ID, Host: id.Host, Holding: true, Why: m.Why,
		Snap: Process{Host: m.Host, Boot: m.Boot, Namespace: m.Namespace, PID: m.PID, Start: m.Start},
	}, nil
}
