package capture

import (
	"bytes"
	"errors"
	"testing"

	"snap/hv"
	"snap/internal/ntlab"
)

// TestEveryState takes a dump of a guest in each state, in each mode: it is taken or
// refused as hv.States has it, and a guest that stands still is neither paused nor
// resumed and is of one point in time.
func TestEveryState(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 31, Memory: 64 << 20})
	for _, c := range hv.States() {
		for name, mode := range map[string]Mode{"auto": nil, "pause": Pause{}, "snapshot": Snapshot{}, "live": Live{}} {
			if c.Use == hv.UseRunning {
				continue // what all other tests are about
			}
			t.Run(string(c.State)+" "+name, func(t *testing.T) {
				vm.state, vm.holds = c.State, 0
				job := &job{vm: vm, Options: Options{Mode: mode, MemoryCopy: spoolSize}}
				live := name == "live"
				if c.Use == hv.UseNothing || c.Use == hv.UseLive && !live {
					var out bytes.Buffer
					_, err := job.take(t.Context(), &out)
					if e, ok := errors.AsType[*hv.StateError](err); !ok || e.State != c.State || !errors.Is(err, c.Err) || vm.holds != 0 || out.Len() != 0 {
						t.Errorf("Take() = %v after %d pauses and %d bytes; want a *hv.StateError of class %v", err, vm.holds, out.Len(), c.Err)
					}
					return
				}
				d, err := takeBy(t, job)
				if err != nil {
					t.Fatal(err)
				}
				still := c.Use == hv.UseStill
				if d.res.Consistent() != still || vm.holds != 0 || d.res.Pause != 0 || d.res.Estimate != (PauseEstimate{}) || d.res.State != c.State {
					t.Errorf("consistent %t, %d pauses of %v, state %q; want %t and none, state %q",
						d.res.Consistent(), vm.holds, d.res.Pause, d.res.State, still, c.State)
				}
				if d.res.Manifest.State != string(c.State) || len(d.warnings()) != 0 {
					t.Errorf("the manifest's state is %q, warnings are %q; want %q and none", d.res.Manifest.State, d.warnings(), c.State)
				}
			})
		}
	}
}

// TestStopsBeforeThePause: a guest that crashes when it was looked at already is
// dumped as it stands, and said to be crashed.
func TestStopsBeforeThePause(t *testing.T) {
	for name, spool := range map[string]uint64{"spool": spoolSize, "no spool": 0} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 32, Memory: 64 << 20})
			vm.crashes = true
			d, err := takeBy(t, pauseJob(vm, spool))
			if err != nil {
				t.Fatal(err)
			}
			if !d.res.Consistent() || d.res.Pause != 0 || d.res.State != hv.StateCrashed || d.res.Manifest.State != "crashed" || vm.state != hv.StateCrashed || len(d.warnings()) != 1 {
				t.Errorf("consistent %t, paused for %v, state %q, warnings %q; want a crashed guest as it stands, and a word about it",
					d.res.Consistent(), d.res.Pause, d.res.State, d.warnings())
			}
		})
	}
}
