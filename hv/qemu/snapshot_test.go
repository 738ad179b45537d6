package qemu

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/phys"
)

var enough = hv.SnapshotOptions{Populated: 64, Room: 256 << 20}

// TestSnapshot takes one of a QEMU that a test plays and holds it against what that
// QEMU's other commands recorded of the guest.
func TestSnapshot(t *testing.T) {
	for _, name := range []string{"qemu-7.2-pc", "qemu-10.0-q35"} {
		t.Run(name, func(t *testing.T) {
			q, g := play(t, name)
			k := &diary{q: q}
			s, err := g.Snapshot(t.Context(), enough, q, k)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			want := recorded(t, name+".ram")
			for _, r := range s.RAM() {
				got := make([]byte, r.Size())
				if err := s.ReadPhys(t.Context(), got, r.Base.Addr()); err != nil {
					t.Fatal(err)
				}
				if at := r.Base.Addr(); !bytes.Equal(got, want[at:][:len(got)]) {
					t.Errorf("memory of %v differs from what pmemsave recorded", r)
				}
			}
			if len(s.Registers()) != 2 || s.Downtime() != 12*time.Millisecond {
				t.Errorf("it has %d processors and a downtime of %v; want 2 and 12ms", len(s.Registers()), s.Downtime())
			}
			q.asBefore(t)
			if diff := cmp.Diff([]string{"hold for snapshot, on=false", "freed, on=false"}, k.said); diff != "" {
				t.Errorf("the keeper was told (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSnapshotFails: whatever becomes of a snapshot, QEMU and guest are as before.
func TestSnapshotFails(t *testing.T) {
	errBroken := errors.New("broken")
	tests := []struct {
		name string
		set  func(*played, *diary, *hv.SnapshotOptions)
		is   error
		text string
	}{
		{"nobody would undo it", func(_ *played, k *diary, _ *hv.SnapshotOptions) { k.fail = errBroken }, errBroken, ""},
		{"not enough room", func(_ *played, _ *diary, o *hv.SnapshotOptions) { o.Room = 1 << 20 }, hv.ErrUnsupported, "only 1048576 are allowed"},
		{"refused", func(q *played, _ *diary, _ *hv.SnapshotOptions) {
			q.replies["migrate"] = `{"error":{"class":"GenericError","desc":"not now"}}`
		}, hv.ErrUnsupported, "not now"},
		{"QEMU fails and stops the guest", func(q *played, _ *diary, _ *hv.SnapshotOptions) {
			q.migrates = func() { q.status, q.stopped = "failed", true; q.drop() }
		}, nil, "QEMU gave up: no space left"},
		{"its keeper lost patience", func(_ *played, k *diary, _ *hv.SnapshotOptions) {
			k.late = &hv.OverdueError{Held: time.Minute, Why: "the test says so"}
		}, hv.ErrOverdue, "the test says so"},
		{"somebody cancels", func(q *played, _ *diary, _ *hv.SnapshotOptions) {
			q.migrates = func() { q.status = "cancelled"; q.drop() }
		}, hv.ErrDisturbed, ""},
		{"a torn stream", func(q *played, _ *diary, _ *hv.SnapshotOptions) { q.stream = q.stream[:len(q.stream)/2] }, hv.ErrFormat, "breaks off"},
		{"memory is plugged meanwhile", func(q *played, _ *diary, _ *hv.SnapshotOptions) {
			q.migrates = func() {
				q.migrates = nil
				q.save()
				q.replies["info mtree -f"] = strings.Replace(playedMtree, "0000000000000000-000000000009ffff", "0000000000001000-000000000009ffff", 1)
				q.replies["info mtree -f"] = strings.Replace(q.replies["info mtree -f"], "ram): pc.ram\n", "ram): pc.ram @0000000000001000\n", 1)
			}
		}, hv.ErrBusy, "changed size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q, g := play(t, "qemu-10.0-q35")
			k, o := &diary{q: q}, enough
			tt.set(q, k, &o)
			s, err := g.Snapshot(t.Context(), o, q, k)
			if err == nil {
				s.Close()
			}
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) || errors.Is(err, hv.ErrStillPaused) {
				t.Errorf("Snapshot() = %v; want %v, with %q", err, tt.is, tt.text)
			}
			q.asBefore(t)
			if held := slices.Contains(k.said, "hold for snapshot, on=false"); held && k.fail == nil && !slices.Contains(k.said, "freed, on=false") {
				t.Errorf("the keeper was told %q; want freed at the end", k.said)
			}
		})
	}
}

// TestSnapshotCancelled: a context that ends meanwhile ends the snapshot.
func TestSnapshotCancelled(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	q.migrates = func() { q.status = "active" }
	ctx, cancel := context.WithCancel(t.Context())
	o := enough
	o.Progress = func(done, total uint64) {
		if total != 4<<20 || done != total {
			t.Errorf("progress is %d of %d; want all of 4 MiB", done, total)
		}
		cancel()
	}
	if _, err := g.Snapshot(ctx, o, q, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot(cancelled) = %v; want context.Canceled", err)
	}
	q.asBefore(t)
}

// TestSnapshotCancelledEarly: QEMU isn't told to give up a snapshot while it sets it
// up, however long that takes.
func TestSnapshotCancelledEarly(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	ctx, cancel := context.WithCancel(t.Context())
	q.migrates = func() { q.status = "setup"; cancel() }
	looks := 0
	q.looks = func() {
		if looks++; looks == 5 && q.status == "setup" {
			q.status = "active"
		}
	}
	q.cancels = func() {
		if q.status != "active" {
			t.Errorf("migrate_cancel comes with the migration in %q; want it in active", q.status)
		}
	}
	if _, err := g.Snapshot(ctx, enough, q, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Snapshot(cancelled) = %v; want context.Canceled", err)
	}
	q.asBefore(t)
	if looks < 5 || q.status != "cancelled" {
		t.Errorf("after %d looks the migration is %q; want it cancelled once it was set up", looks, q.status)
	}
}

// TestUndoOrder: a command to save that is still under way finds no descriptor once
// the capability is off.
func TestUndoOrder(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	q.on, q.fd = true, f
	if err := g.AbandonSnapshot(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	var acts []string
	for _, a := range q.asked {
		if !strings.HasPrefix(a, "query-") {
			acts = append(acts, a)
		}
	}
	if len(acts) < 2 || acts[0] != "closefd" || acts[1] != "migrate-set-capabilities" {
		t.Errorf("QEMU was told %q; want closefd before migrate-set-capabilities", acts)
	}
	q.asBefore(t)
}

// TestUndoWithin: there is time for QEMU to read all of a large guest's memory.
func TestUndoWithin(t *testing.T) {
	for bytes, want := range map[uint64]time.Duration{0: 60 * time.Second, 4 << 40: (60 + 1024) * time.Second, math.MaxUint64: (60 + 8192) * time.Second} {
		if got := undoWithin(bytes); got != want {
			t.Errorf("undoWithin(%d) = %v; want %v", bytes, got, want)
		}
	}
}

// TestTeller: the keeper hears that a snapshot goes on when it does, while QEMU sets it
// up, and while it is undone.
func TestTeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 100
		k := &diary{}
		var seen []uint64
		tell := teller{keeper: k, progress: func(done, _ uint64) { seen = append(seen, done) }}
		hears := func(status string, done uint64, want int) {
			m := migration{Status: status}
			if status != "setup" {
				m.RAM.Total, m.RAM.Remaining = total, total-done
			}
			before := k.progress
			tell.hears(m)
			if got := k.progress - before; got != want {
				t.Errorf("%s, %d saved: the keeper was told %d times; want %d", status, done, got, want)
			}
			time.Sleep(tellEvery)
		}
		hears("setup", 0, 1)
		hears("setup", 0, 1)
		hears("active", 10, 1)
		hears("active", 10, 0)
		hears("active", 20, 1)
		if diff := cmp.Diff([]uint64{10, 10, 20}, seen); diff != "" {
			t.Errorf("the caller was told (-want +got):\n%s", diff)
		}
		before := k.progress
		errTest := errors.New("the test's own")
		if err := tell.while(func() error { time.Sleep(10*tellEvery + 1); return errTest }); !errors.Is(err, errTest) || k.progress != before+10 {
			t.Errorf("while() = %v, and the keeper was told %d times; want %v, and 10", err, k.progress-before, errTest)
		}
	})
}

// TestSnapshotStays: a keeper is not let go before all is undone.
func TestSnapshotStays(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	q.on, q.status, q.job = true, "active", hv.ErrBusy // a save of the manager's own
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := g.AbandonSnapshot(ctx, q)
	if !errors.Is(err, hv.ErrStillPaused) || !errors.Is(err, hv.ErrBusy) || !strings.Contains(err.Error(), "`toy '") || q.status != "active" {
		t.Errorf("AbandonSnapshot() while the manager saves = %v, migration %q; want %v, how to look, and the save left alone", err, q.status, hv.ErrStillPaused)
	}
	q.gone = true
	q.replies["query-migrate-capabilities"] = "" // nobody answers any more
	if err := g.AbandonSnapshot(t.Context(), q); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("AbandonSnapshot() of a guest that is gone = %v; want %v", err, hv.ErrNotRunning)
	}
}

// TestWhyNoSnapshot: the manager is asked after the version and before all else.
func TestWhyNoSnapshot(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	no := func(context.Context) (string, error) { return "the manager says so", nil }
	if why, err := g.WhyNoSnapshot(t.Context(), no); why != "the manager says so" || err != nil || !slices.Equal(q.asked, []string{"query-version"}) {
		t.Errorf("WhyNoSnapshot() = %q, %v after %q; want the manager's word after the version", why, err, q.asked)
	}
	q.status = "active"
	if why, err := g.WhyNoSnapshot(t.Context()); !errors.Is(err, hv.ErrBusy) || why != "" {
		t.Errorf("WhyNoSnapshot() during a migration = %q, %v; want %v", why, err, hv.ErrBusy)
	}
	q.status, q.on = "", true
	if why, err := g.WhyNoSnapshot(t.Context()); err != nil || !strings.Contains(why, "`toy '{") {
		t.Errorf("WhyNoSnapshot() with the capability on = %q, %v; want how to turn it off", why, err)
	}
}

// TestSnapshotSize: it bounds what the recordings take.
func TestSnapshotSize(t *testing.T) {
	for _, name := range []string{"qemu-7.2-pc", "qemu-10.0-q35"} {
		q, g := play(t, name)
		all := uint64(4<<20) >> phys.PageShift
		empty, err := g.SnapshotSize(t.Context(), 0)
		full, err2 := g.SnapshotSize(t.Context(), all)
		if err := errors.Join(err, err2); err != nil || full < uint64(len(q.stream)) || empty >= full {
			t.Errorf("%s: SnapshotSize(0) = %d, SnapshotSize(all) = %d, %v; want at least the %d bytes of the recording for all, and less for none", name, empty, full, err, len(q.stream))
		}
	}
}
