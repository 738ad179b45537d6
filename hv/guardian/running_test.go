package guardian

import (
	"errors"
	"os"
	"testing"

	"snap/hv"
)

// TestRunning: a dump is known to run from its state file, without its lock being
// touched, for as long as it or its guardian lives.
func TestRunning(t *testing.T) {
	dead := Process{PID: 1 << 22} // above the most that there can be (pid_max)
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	dead.Host, dead.Boot, dead.Namespace = self.Host, self.Boot, self.Namespace
	for _, tt := range []struct {
		name           string
		snap, guardian Process
		want           bool
	}{
		{"both live", self, self, true},
		{"its guardian is not known yet", self, Process{}, true},
		{"its guardian undoes it", dead, self, true},
		{"both were killed", dead, dead, false},
		{"killed before it had a guardian", dead, Process{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			r := aRun(t)
			r.Snap, r.Guardian = tt.snap, tt.guardian
			if err := r.save(dir); err != nil {
				t.Fatal(err)
			}
			id := hv.Identity{URI: r.URI, Name: r.Name, UUID: r.UUID, Host: r.Host}
			if err := running(dir, id); errors.Is(err, ErrLocked) != tt.want || (err != nil) != tt.want {
				t.Errorf("running() = %v; want ErrLocked: %v", err, tt.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("%v is there; want the state file alone", left)
			}
			id.UUID = "another"
			if err := running(dir, id); err != nil {
				t.Errorf("running() of another domain = %v; want nil", err)
			}
		})
	}
}
