package guardian

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
)

// nobody is a Connect that must not be called.
func nobody(context.Context, string) (hv.Connection, error) {
	return nil, errors.New("the test has no hypervisor")
}

// toy is a hypervisor with one domain that another process was at work on.
type toy struct {
	hv.Guardable // nothing else is asked for

	id     hv.Identity
	state  hv.State
	marker *hv.Marker
	did    string
	err    error // of Undo

	left   []hv.Left
	closed int
	undone chan struct{} // told of each Undo, if it isn't nil
}

func (y *toy) open(context.Context, string) (hv.Connection, error) { return toyConnection{y: y}, nil }
func (y *toy) Identity() hv.Identity                               { return y.id }
func (y *toy) State(context.Context) (hv.State, error)             { return y.state, nil }
func (y *toy) Marker(context.Context) (*hv.Marker, error)          { return y.marker, nil }
func (y *toy) ClearMarker(context.Context) error                   { y.marker = nil; return nil }
func (y *toy) Undo(_ context.Context, l hv.Left) (did string, err error) {
	y.left = append(y.left, l)
	if y.undone != nil {
		y.undone <- struct{}{}
	}
	return y.did, y.err
}
func (y *toy) Watch(context.Context) (hv.Watch, error) { return toyWatch{}, nil }
func (y *toy) Close() error                            { y.closed++; return nil }

// toyWatch sees nothing.
type toyWatch struct{ hv.Watch }

func (toyWatch) Reset(bool) {}
func (toyWatch) Close()     {}

// toyConnection is a connection to a toy.
type toyConnection struct {
	hv.Connection // nothing else is asked for

	y *toy
}

func (c toyConnection) Lookup(_ context.Context, ref string) (hv.VM, error) {
	switch {
	case ref != c.y.id.UUID:
		return nil, hv.ErrNoDomain
	case c.y.id.Name == "on its own":
		return struct{ hv.VM }{c.y}, nil // a VM and no more
	}
	return c.y, nil
}

func (c toyConnection) Close() error { c.y.closed++; return nil }

// deadRun is a dump of a process that died, which held the toy's domain.
func deadRun(t *testing.T, why hv.Reason) (*Run, *toy) {
	t.Helper()
	r := aRun(t)
	r.Snap.Start++ // another process had the number
	r.Why, r.Files = why, nil
	return r, &toy{
		id:    hv.Identity{Name: r.Name, UUID: r.UUID, ID: r.Instance, Host: r.Host, URI: r.URI},
		state: hv.StateRunning, marker: &hv.Marker{Run: r.ID, Why: why},
	}
}

// TestUndo: what is to be undone is the hypervisor's to know; what is said of it,
// and whether the mark goes, is the guardian's.
func TestUndo(t *testing.T) {
	const removed = "removed the mark"
	tests := []struct {
		name  string
		set   func(*toy)
		want  []string
		is    error
		marks bool // the domain is still marked
	}{
		{"undone", func(y *toy) { y.did = "resumed the guest" }, []string{"resumed the guest", removed}, nil, false},
		{"nothing to undo", func(*toy) {}, []string{removed}, nil, false},
		{"not marked", func(y *toy) { y.did = "ended the snapshot"; y.marker = nil }, []string{"ended the snapshot"}, nil, false},
		{"marked by another dump", func(y *toy) { y.marker.Run = "other" }, nil, nil, true},
		{"disturbed", func(y *toy) { y.err = hv.ErrDisturbed }, []string{"left the guest as somebody else wants it: " + hv.ErrDisturbed.Error(), removed}, nil, false},
		{"off", func(y *toy) { y.err = hv.ErrNotRunning }, []string{gone}, nil, true},
		{"gone", func(y *toy) { y.err = hv.ErrNoDomain }, []string{gone}, nil, true},
		{"still paused", func(y *toy) { y.did, y.err = "nothing", hv.ErrStillPaused }, nil, hv.ErrStillPaused, true},
		{"started anew", func(y *toy) { y.id.ID++ }, []string{gone}, nil, true},
		{"of a hypervisor that can't", func(y *toy) { y.id.Name = "on its own" }, nil, hv.ErrUnsupported, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r, y := deadRun(t, hv.ForSnapshot)
			tt.set(y)
			if err := r.save(dir); err != nil {
				t.Fatal(err)
			}
			done, err := Recover(t.Context(), y.open, dir, r, false)
			if diff := cmp.Diff(tt.want, done.Did); diff != "" || !errors.Is(err, tt.is) {
				t.Errorf("Recover() = %v, %v; want %v (-want +got):\n%s", done.Did, err, tt.is, diff)
			}
			if (y.marker != nil) != tt.marks {
				t.Errorf("the mark afterwards is %+v; want one: %v", y.marker, tt.marks)
			}
			if y.closed != 2 {
				t.Errorf("%d of domain and connection were closed; want both", y.closed)
			}
			// What could not be undone is kept for the next attempt.
			if _, err := os.Stat(r.path(dir)); (err == nil) != (tt.is != nil) {
				t.Errorf("the state file afterwards: %v; want one: %v", err, tt.is != nil)
			}
		})
	}
}

// TestUndoSays: the hypervisor is told which dump's hold to undo, and why it was.
func TestUndoSays(t *testing.T) {
	for _, why := range []hv.Reason{hv.ForPause, hv.ForJob, hv.ForSnapshot} {
		dir := t.TempDir()
		r, y := deadRun(t, why)
		if err := r.save(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Recover(t.Context(), y.open, dir, r, false); err != nil {
			t.Fatal(err)
		}
		want := []hv.Left{{Run: r.ID, Why: why}}
		if diff := cmp.Diff(want, y.left); diff != "" {
			t.Errorf("Undo() was told (-want +got):\n%s", diff)
		}
	}
}

// TestRecoverMarked: the mark alone tells of a dump, whose files nobody knows.
func TestRecoverMarked(t *testing.T) {
	r, y := deadRun(t, hv.ForJob)
	y.did = "had it let go"
	y.marker.Host, y.marker.Boot, y.marker.Namespace = r.Snap.Host, r.Snap.Boot, r.Snap.Namespace
	y.marker.PID, y.marker.Start = r.Snap.PID, r.Snap.Start
	done, err := RecoverMarked(t.Context(), t.TempDir(), y, y.marker, false)
	if diff := cmp.Diff([]string{"had it let go", "removed the mark"}, done.Did); err != nil || diff != "" {
		t.Errorf("RecoverMarked() = %v (-want +got):\n%s", err, diff)
	}
	if len(y.left) != 1 || y.left[0].Why != hv.ForJob || y.closed != 0 {
		t.Errorf("Undo() was told %+v, and %d things were closed; want the mark's reason, and none", y.left, y.closed)
	}
	y.marker = &hv.Marker{Run: "otherotherotherr", Why: hv.ForJob, Host: r.Snap.Host, Boot: r.Snap.Boot, Namespace: r.Snap.Namespace, PID: os.Getpid(), Start: r.Snap.Start - 1}
	if done, err := RecoverMarked(t.Context(), t.TempDir(), y, y.marker, false); err != nil || !done.Running || y.marker == nil {
		t.Errorf("RecoverMarked() of a dump that runs = %+v, %v; want that it runs", done, err)
	}
}
