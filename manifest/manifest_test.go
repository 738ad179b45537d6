package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnSaysAThingOnce(t *testing.T) {
	var m Manifest
	m.Warn("%d pages could not be read", 3)
	m.Warn("%d pages could not be read", 3)
	m.Warn("other")
	if diff := cmp.Diff([]string{"3 pages could not be read", "other"}, m.Warnings); diff != "" {
		t.Errorf("Warnings differ (-want +got):\n%s", diff)
	}
}

func TestListsAreNeverNull(t *testing.T) {
	b, err := (&Manifest{}).Compact()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"excluded":[]`, `"refused_exclusions":[]`, `"warnings":[]`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("Compact() = %s; want %s in it", b, want)
		}
	}
}
