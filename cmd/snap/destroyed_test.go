package main

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"snap/internal/lab"
)

var destroyedMoments = flag.Int("destroyed", 2, "moments of each way to take a dump in which TestDomainDestroyed destroys the domain")

// TestDomainDestroyed destroys domains at any moment of their dumps, in each way to
// take one: it ends with the code of a domain that is gone, whatever failed first, and
// leaves nothing; or the dump had all of the guest that it needs, and is whole.
func TestDomainDestroyed(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"pause":                {"--mode", "pause", "--source", "direct"},
		"pause-peek":           {"--mode", "pause"},
		"pause-without-a-copy": {"--mode", "pause", "--source", "direct", "--spool", "off"},
		"live":                 {"--mode", "live", "--source", "direct"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var took time.Duration // of a dump that is left alone
			for i := range *destroyedMoments + 1 {
				t.Run(strconv.Itoa(i), func(t *testing.T) {
					g := upHeldWith(t, lab.Spec{Name: "gone-" + name, MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: uint64(i)})
					began := time.Now()
					r := g.start(t, flags...)
					if i == 0 {
						if code := r.wait(t).code; code != exitOK && code != exitDegraded {
							t.Fatalf("a dump that is left alone ends with %d: %s", code, r.stderr.String())
						}
						took = time.Since(began)
						return
					}
					after := time.Duration(rand.Int64N(int64(took)))
					select {
					case <-time.After(after):
					case <-r.ended:
					}
					virsh(t, g.Connection, "destroy", g.Name)
					g.endsAsGone(t, r, after)
				})
			}
		})
	}
}

// endsAsGone waits for the end of a dump whose domain was destroyed.
func (g *heldGuest) endsAsGone(t *testing.T, r *running, after time.Duration) {
	t.Helper()
	end := r.wait(t)
	t.Logf("destroyed after %v: exit code %d", after, end.code)
	out := filepath.Join(g.folder, "out.dmp.zst")
	if end.code == exitOK || end.code == exitDegraded {
		runSnap(t, g.Connection, "verify", out).want(t, exitOK)
		return
	}
	end.want(t, exitNoDomain)
	for _, pattern := range []string{g.folder + "/*", g.stateFiles("")} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("%v was left behind (%v)", left, err)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Errorf("%s is there, of a dump that failed", out)
	}
}
