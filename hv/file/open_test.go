package file

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/hvtest"
	"snap/input"
	"snap/phys"
)

// page is a toy format: a mark, and one page of memory at 0x1000.
func page() format {
	return format{
		name:  "file of one page",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte("ONE PAGE")) },
		open: func(_ context.Context, b body, _ Options) (hv.Source, error) {
			return newSource(b, "page", []Segment{{GPA: 0x1000, Size: phys.PageSize, FileOffset: 8}}, nil)
		},
	}
}

func openAs(t *testing.T, path string, all []format) (hv.Source, error) {
	t.Helper()
	f, err := input.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return newAs(t.Context(), f, Options{}, all)
}

// TestAddFormat: a new format is one more value in the list. It is recognised,
// read, and named where a file is of no format.
func TestAddFormat(t *testing.T) {
	all := append(formats(), page())
	path := filepath.Join(t.TempDir(), "page")
	sevens := bytes.Repeat([]byte{7}, phys.PageSize)
	if err := os.WriteFile(path, append([]byte("ONE PAGE"), sevens...), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := openAs(t, path, all)
	if err != nil {
		t.Fatalf("opening a file of the new format failed: %v", err)
	}
	defer src.Close()
	want := &image{segs: []Segment{{0x1000, phys.PageSize, 0}}, data: map[phys.Addr][]byte{0x1000: sevens}}
	hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return open(t, src) }, hvtest.Options{Want: want})

	if src, err := openAs(t, "testdata/qemu-7.2.core", all); err != nil {
		t.Errorf("opening an ELF core failed: %v", err)
	} else if err := src.Close(); err != nil {
		t.Errorf("Close failed: %v", err)
	}
	if _, err := Open(t.Context(), path, Options{}); !errors.Is(err, ErrUnknown) || strings.Contains(err.Error(), "one page") {
		t.Errorf("Open without it in the list = %v; want %v", err, ErrUnknown)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("Something\x00else, 24 bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openAs(t, other, all); err == nil || !strings.Contains(err.Error(), "AVML image, file of one page") {
		t.Errorf("Open of something else = %v; want the formats that can be read", err)
	}
}

// TestOpen: what a file is taken for, by what it begins with and by what is said
// of it.
func TestOpen(t *testing.T) {
	core, err := os.ReadFile("testdata/qemu-7.2.core")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		content string
		o       Options
		pages   uint64
		want    error
		say     string
	}{
		{name: "ELF core", content: string(core), pages: 1},
		{name: "ELF core said to be raw", content: string(core[:phys.PageSize]), o: Options{Raw: true}, pages: 1},
		{name: "raw, and half a page", content: strings.Repeat("x", 3*phys.PageSize/2), o: Options{Raw: true}, pages: 1},
		{name: "raw, half a page", content: strings.Repeat("x", phys.PageSize/2), o: Options{Raw: true}, want: hv.ErrFormat, say: "no whole page"},
		{name: "raw, not said", content: strings.Repeat("\x81", phys.PageSize), want: ErrUnknown, say: "81 81 81"},
		{name: "kdump said to be raw", content: "KDUMP   " + strings.Repeat("x", phys.PageSize), o: Options{Raw: true}, pages: 1},
		{name: "short", content: "\x7fELF", want: hv.ErrFormat, say: "file ends"},
	} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := Open(t.Context(), path, tt.o)
		if tt.want != nil {
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: Open = %v; want %v saying %q of %s", tt.name, err, tt.want, tt.say, path)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Open failed: %v", tt.name, err)
			continue
		}
		m := open(t, src)
		if got := m.RAM().Pages(); got != tt.pages {
			t.Errorf("%s: %d pages; want %d", tt.name, got, tt.pages)
		}
		if err := errors.Join(m.Close(), src.Close()); err != nil {
			t.Errorf("%s: Close failed: %v", tt.name, err)
		}
	}
}
