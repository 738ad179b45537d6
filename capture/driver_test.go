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
	for name, tt := range map[string]struct {
		guest ntlab.Config
		args  []string
	}{
		"x64":             {ntlab.Config{}, nil},
		"x86":             {ntlab.Config{Profile: "x86-19041"}, x86Driver},
		"x86 without PAE": {ntlab.Config{Profile: "x86-2600", NoPAE: true}, x86Driver},
		"x86, 3 GiB":      {ntlab.Config{Profile: "x86-7601", UserSpace3GB: true}, x86Driver},
	} {
		t.Run(name, func(t *testing.T) { testSampleDriver(t, tt.guest, tt.args) })
	}
}

// x86Driver are what make builds the sample driver for x86 by.
var x86Driver = []string{"CROSS=i686-w64-mingw32-", "ENTRY=_DriverEntry@8"}

func testSampleDriver(t *testing.T, guest ntlab.Config, args []string) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "make", append([]string{"-s", "-C", "../guest/driver/snapadv", "OUT=" + dir}, args...)...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the sample driver: %v\n%s(scripts/deps.sh installs mingw-w64)", err, out)
	}
	image, err := os.ReadFile(filepath.Join(dir, "snapadv.sys"))
	if err != nil {
		t.Fatal(err)
	}
	vm := newGuest(t, guest)
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
