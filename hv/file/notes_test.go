package file

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestPublished: what the guest published is told of cores that have it, in whole, and of
// nothing else. Cores without it, and one that is too long, have none.
func TestPublished(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 14, CPUs: 2, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "core")
	source := func() hv.Source {
		t.Helper()
		src, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { src.Close() })
		return src
	}
	core := func() hv.Source {
		t.Helper()
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := im.WriteELFCore(f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return source()
	}
	if got := hv.PublishedOf(core()); got != nil {
		t.Errorf("a core without a note has one of %d bytes", len(got))
	}
	note, err := im.PublishedNote()
	if err != nil {
		t.Fatal(err)
	}
	const prefix = 24 // of the ELF note (QEMU dump/win_dump.c)
	src := core()
	if got := hv.PublishedOf(src); !bytes.Equal(got, note[prefix:]) {
		t.Errorf("the core's note has %d bytes; want the guest's %d", len(got), len(note)-prefix)
	}
	if regs, err := src.Registers(t.Context()); err != nil || len(regs) != 2 {
		t.Errorf("Registers() = %d, %v; want both processors", len(regs), err)
	}
	for name, tt := range map[string]struct {
		notes, want []byte
	}{
		"kdump":         {note, note[prefix:]},
		"the first":     {append(bytes.Clone(note), linuxNote("later")...), note[prefix:]},
		"Linux'":        {linuxNote("OSRELEASE=6.1.0\n"), []byte("OSRELEASE=6.1.0\n")},
		"far too long":  {linuxNote(strings.Repeat("x", hv.MaxPublished+4)), nil},
		"as long as it": {linuxNote(strings.Repeat("x", hv.MaxPublished)), bytes.Repeat([]byte("x"), hv.MaxPublished)},
	} {
		k := filetest.Kdump{Version: 6, Machine: "x86_64", Pages: map[phys.PFN][]byte{1: make([]byte, phys.PageSize)}, Notes: tt.notes, Store: filetest.StoreZlib}
		if err := os.WriteFile(path, k.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hv.PublishedOf(source()); !bytes.Equal(got, tt.want) {
			t.Errorf("%s: a note of %d bytes; want %d", name, len(got), len(tt.want))
		}
	}
}

// linuxNote is a note as a Linux guest has it.
func linuxNote(text string) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 11)
	b = le.AppendUint32(b, uint32(len(text)))
	b = le.AppendUint32(b, 0)
	b = append(b, "VMCOREINFO\x00\x00"...)
	b = append(b, text...)
	return append(b, make([]byte, -len(text)&3)...)
}
