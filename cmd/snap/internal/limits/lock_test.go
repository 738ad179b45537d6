package limits

import (
	"os"
	"testing"
	"testing/fstest"
)

// TestSwaps: a host swaps if proc(5) lists anything below the heading.
func TestSwaps(t *testing.T) {
	const heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	for content, want := range map[string]bool{
		"":             false,
		heading:        false,
		heading + "\n": false,
		heading + "/dev/dm-1                               partition\t8388604\t\t0\t\t-2\n": true,
	} {
		got, err := Swaps(fstest.MapFS{"proc/swaps": {Data: []byte(content)}})
		if err != nil || got != want {
			t.Errorf("Swaps of %q = %v, %v; want %v", content, got, err, want)
		}
	}
	if _, err := Swaps(fstest.MapFS{}); err == nil {
		t.Error("Swaps without /proc/swaps worked; want an error")
	}
	if _, err := Swaps(os.DirFS("/")); err != nil {
		t.Errorf("Swaps of this host: %v", err)
	}
}
