package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"snap/internal/ntlab"
)

// published is the descriptor of the note that a lab guest publishes.
func published(t testing.TB, im *ntlab.Image) []byte {
	t.Helper()
	note, err := im.PublishedNote()
	if err != nil {
		t.Fatal(err)
	}
	const prefix = 24 // of the ELF note (QEMU dump/win_dump.c)
	return note[prefix:]
}

func builtGuest(t testing.TB, c ntlab.Config) *ntlab.Image {
	t.Helper()
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestFindPublished: a header that the guest published leads to it where it is right,
// and is only a candidate.
func TestFindPublished(t *testing.T) {
	im := builtGuest(t, ntlab.Config{Seed: 141, CPUs: 2, NoLowStub: true})
	note := published(t, im)
	only := []finder{findPublished}
	s, err := discover(t.Context(), im, im.RAM(), nil, only, Options{Published: note})
	if err != nil {
		t.Fatal(err)
	}
	if s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase || s.Witness != "published header" || s.Published == nil || len(s.Published.Differs) > 0 {
		t.Errorf("DirectoryTableBase = %#x by %q, published %+v; want %#x by the published header, which agrees",
			uint64(s.DirectoryTableBase.Value), s.Witness, s.Published, uint64(im.Truth.DirectoryTableBase))
	}
	for _, w := range s.Warnings {
		if strings.Contains(w, "published") {
			t.Errorf("warning %q of a header that agrees", w)
		}
	}
	wrong := bytes.Clone(note)
	binary.LittleEndian.PutUint64(wrong[0x10:], 0x5000) // DirectoryTableBase
	for name, note := range map[string][]byte{"wrong": wrong, "none": nil, "text": []byte("OSRELEASE=6.1.0\n"), "zeros": make([]byte, 0x2000)} {
		if s, err := discover(t.Context(), im, im.RAM(), nil, only, Options{Published: note}); err == nil {
			t.Errorf("%s: found %+v by it", name, s)
		}
	}
}

// TestPublishedIsCompared: what a published header says otherwise than the guest's memory
// is told with both values, and changes nothing of what was found.
func TestPublishedIsCompared(t *testing.T) {
	im := builtGuest(t, ntlab.Config{Seed: 142, CPUs: 2})
	note := published(t, im)
	for name, tt := range map[string]struct {
		off   int
		size  int
		field string // "" for none
	}{
		"as it is":        {},
		"page table":      {0x10, 8, "DirectoryTableBase"},
		"PFN database":    {0x18, 8, "PfnDataBase"},
		"modules":         {0x20, 8, "PsLoadedModuleList"},
		"processes":       {0x28, 8, "PsActiveProcessHead"},
		"build":           {0x0C, 4, "MinorVersion"},
		"machine":         {0x30, 4, "MachineImageType"},
		"processors":      {0x34, 4, "NumberProcessors"},
		"KDBG":            {0x80, 8, "KdDebuggerDataBlock"},
		"pages":           {0x90, 8, "NumberOfPages"},
		"no time differs": {0xFA8, 8, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(note)
			if tt.size > 0 {
				b[tt.off+1] ^= 0x10
			}
			s, err := Options{Published: b}.Discover(t.Context(), im, im.RAM(), im.Registers())
			if err != nil {
				t.Fatal(err)
			}
			told := strings.Join(s.Warnings, "\n")
			if tt.field == "" {
				if len(s.Published.Differs) > 0 || strings.Contains(told, "published") {
					t.Errorf("it differs in %q, warnings %q; want neither", s.Published.Differs, told)
				}
				return
			}
			if len(s.Published.Differs) != 1 || !strings.HasPrefix(s.Published.Differs[0], tt.field+" is ") || !strings.Contains(told, s.Published.Differs[0]) {
				t.Errorf("it differs in %q, warnings %q; want only %s", s.Published.Differs, told, tt.field)
			}
			if s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase || s.PsLoadedModuleList.Value != im.Truth.PsLoadedModuleList {
				t.Error("what the guest published was believed")
			}
		})
	}
	s, err := Options{Published: note[:0x1000]}.Discover(t.Context(), im, im.RAM(), im.Registers())
	if err != nil {
		t.Fatal(err)
	}
	if told := fmt.Sprint(s.Warnings); s.Published.Err == nil || !strings.Contains(told, "no dump header that could be used: ") {
		t.Errorf("half a header: %+v, warnings %s; want that it can't be used", s.Published, told)
	}
}

// FuzzPublished: whatever a guest publishes, it is a header or an error, and what was
// found stays as it is.
func FuzzPublished(f *testing.F) {
	im := builtGuest(f, ntlab.Config{Seed: 143, CPUs: 1, Memory: 64 << 20})
	s, err := Discover(f.Context(), im, im.RAM(), nil)
	if err != nil {
		f.Fatal(err)
	}
	note := published(f, im)
	f.Add(note)
	f.Add(note[:0x1000])
	f.Add(make([]byte, 0x2000))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readPublished(b)
		if (h == nil) == (err == nil) {
			t.Fatalf("readPublished = %v, %v", h, err)
		}
		got := *s
		got.Warnings = nil
		got.comparePublished(b)
		if got.DirectoryTableBase != s.DirectoryTableBase || len(got.Warnings) > 10 || len(b) > 0 && got.Published == nil {
			t.Errorf("comparePublished left %+v, %d warnings", got.Published, len(got.Warnings))
		}
	})
}
