package capture

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"snap/internal/ntlab"
)

// TestSampleDriver loads the sample driver as mingw-w64 builds it, and demands
// that what it publishes by its exported table stays out of the dump, and that
// before it publishes anything it asks for nothing.
func TestSampleDriver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", "-s", "-C", "../guest/driver/snapadv", "OUT="+dir)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the sample driver: %v\n%s(scripts/deps.sh installs mingw-w64)", err, out)
	}
	image, err := os.ReadFile(filepath.Join(dir, "snapadv.sys"))
	if err != nil {
		t.Fatal(err)
	}
	vm := newGuest(t, ntlab.Config{})
	if _, err := vm.im.LoadDriver("snapadv.sys", image); err != nil {
		t.Fatal(err)
	}
	all := windowsPages(t, vm.im)
	d := mustTake(t, vm, LookOptions{})
	d.comparePages(t, vm.im, all)
	if len(d.warnings()) > 0 {
		t.Errorf("a driver that publishes nothing gives warnings: %q", d.warnings())
	}

	marks, err := vm.im.Mark(3, ntlab.MarkSmall)
	if err != nil {
		t.Fatal(err)
	}
	// The driver's head leads to the table that it has filled.
	if _, err := vm.im.Advertise("snapadv.sys", &ntlab.Advert{Entries: []ntlab.RemovePages{marks[0].Request()}}); err != nil {
		t.Fatal(err)
	}
	d = mustTake(t, vm, LookOptions{})
	d.comparePages(t, vm.im, all.Minus(pagesOfFrames(t, marks[0].PFNs...)))
	if holds(t, d.plain, marks[0].Marker[:16]) {
		t.Error("the marker is in the dump")
	}
	entries := d.res.Analysis.Exclusions.Entries
	if len(entries) != 1 || entries[0].Request.By != "snapadv.sys" || !slices.Equal(d.res.Analysis.Adverts.Problems, nil) {
		t.Errorf("requests honoured: %v, problems: %v; want one of snapadv.sys and none", entries, d.res.Analysis.Adverts.Problems)
	}
}
