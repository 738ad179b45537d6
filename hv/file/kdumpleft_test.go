package file

import (
	"slices"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/phys"
)

// TestKdumpLeftOut: pages that the guest had and that were left out are no memory, and
// it is said how many they are. A level alone says nothing: QEMU writes one.
func TestKdumpLeftOut(t *testing.T) {
	left := []phys.PFN{0x200, 0x201, 0x10000, 0x100060}
	for _, tt := range []struct {
		name   string
		level  uint32
		left   []phys.PFN
		single bool
		narrow bool
		want   string // of the note, empty for none
		never  string
	}{
		{"whole", 0, nil, false, false, "", ""},
		{"whole, of QEMU", 1, nil, false, false, "", ""},
		{"one bitmap", 31, nil, true, false, "", ""},
		{"zeros", 1, left, false, false, "4 pages that the guest had are not in the core: whoever wrote it left out pages of zeros (dump level 1)", "lost"},
		{"free pages too", 31, left[1:], false, false, "3 pages that the guest had are not in the core: whoever wrote it left out kinds of pages (dump level 31); what was in them is lost", "zeros"},
		{"of a 32-bit guest", 17, left[:1], false, true, "1 pages that the guest had are not in the core: whoever wrote it left out kinds of pages (dump level 17)", "zeros"},
	} {
		pages := guestPages()
		pages[0x100100] = make([]byte, phys.PageSize) // behind the last that is left out
		k := filetest.Kdump{
			Version: 6, Machine: "x86_64", Pages: pages, Store: filetest.StoreZlib, Level: tt.level, Left: tt.left,
			Single: tt.single, Narrow: tt.narrow,
		}
		src, err := Open(t.Context(), writeFile(t, k.Bytes()), Options{})
		if err != nil {
			t.Errorf("%s: Open failed: %v", tt.name, err)
			continue
		}
		got := strings.Join(src.(hv.Noted).Notes(), "|")
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) || tt.never != "" && strings.Contains(got, tt.never) {
			t.Errorf("%s: Notes() = %q; want %q", tt.name, got, tt.want)
		}
		m := open(t, src)
		if slices.ContainsFunc(tt.left, func(p phys.PFN) bool { return m.RAM().Covers(p.Addr(), 1) }) {
			t.Errorf("%s: RAM() = %v; want none of %v in it", tt.name, m.RAM(), tt.left)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}
