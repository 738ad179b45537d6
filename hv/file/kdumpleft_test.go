package file

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/phys"
)

// TestKdumpLeftOut: pages that the guest had and that were left out are no memory, unless
// only pages of zeros were, and it is said how many they are. A level alone says nothing:
// QEMU writes one.
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
		for _, p := range tt.left {
			page := bytes.Repeat([]byte{0xA5}, phys.PageSize)
			err := m.ReadPhys(t.Context(), page, p.Addr())
			switch zeros := len(bytes.Trim(page, "\x00")) == 0; {
			case tt.level == 1 && (err != nil || !zeros):
				t.Errorf("%s: ReadPhys of page %#x, which held zeros: %v, all zeros: %v", tt.name, uint64(p), err, zeros)
			case tt.level != 1 && !errors.Is(err, phys.ErrNotRAM):
				t.Errorf("%s: ReadPhys of page %#x = %v; want that it is no RAM", tt.name, uint64(p), err)
			}
		}
		lost := uint64(0)
		if tt.level != 1 {
			lost = uint64(len(tt.left))
		}
		if got := m.(hv.PartialMemory).Lost(); got != lost {
			t.Errorf("%s: Lost() = %d; want %d", tt.name, got, lost)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}
