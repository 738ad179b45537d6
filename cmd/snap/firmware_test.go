package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"snap/guest"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
)

// TestFirmware looks at guests that have nothing to boot, from their first
// instructions on: at any time they are said to be in firmware, and never are
// walked as Windows.
func TestFirmware(t *testing.T) {
	labtest.NeedsDaemons(t)
	for _, kind := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		t.Run(string(kind), func(t *testing.T) {
			g, err := lab.UpFirmware(t.Context(), lab.Spec{Name: unique("firmware-" + string(kind)), MemoryMiB: 256, CPUs: 2}, kind)
			endsWithTest(t, g, err)
			words := map[string]bool{}
			for range 8 {
				r := runSnap(t, g.Connection, "check", g.Name, "--log-format", "json").want(t, exitNotWindows)
				var e struct {
					Message, Next string
					Search        struct{ Reason guest.Reason }
				}
				lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
				if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
					t.Fatalf("stderr %q: %v", r.stderr, err)
				}
				if e.Search.Reason != guest.ReasonFirmware || !strings.Contains(e.Next, "wait until Windows has started") {
					t.Errorf("%+v; want the reason firmware, and to wait", e)
				}
				_, why, _ := strings.Cut(e.Message, "not a Windows guest that snap understands: ")
				words[why] = true
				time.Sleep(500 * time.Millisecond) // for the firmware to get on
			}
			for why := range words {
				t.Log(why)
			}
			if r := runSnap(t, g.Connection, "list", "--json").want(t, exitOK); !strings.Contains(r.stdout, `"in firmware"`) {
				t.Errorf("snap list says %s; want in firmware", r.stdout)
			}
		})
	}
}
