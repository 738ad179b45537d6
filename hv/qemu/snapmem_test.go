package qemu

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/hv/qemu/vmstate"
	"snap/phys"
)

// virtioMem is a recording of package vmstate's: a guest with 4 MiB of RAM and a
// virtio-mem device of 64 MiB, of which the blocks 0, 1 and 3 of 2 MiB are plugged;
// its README says so.
func virtioMem(t *testing.T) *vmstate.Stream {
	t.Helper()
	b := recorded(t, "qemu-10.0-virtio-mem.stream")
	st, err := vmstate.Parse(b, vmstate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// recorded reads a recording of package vmstate's.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(readFile(t, "vmstate/testdata/"+name+".gz")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rangeOf(base phys.PFN, pages uint64, block string, offset uint64) ramRange {
	return ramRange{run: phys.Run{Base: base, Pages: pages}, block: block, offset: offset}
}

func mapOf(t *testing.T, ranges ...ramRange) RAMMap {
	t.Helper()
	m := RAMMap{ranges: ranges}
	for _, r := range ranges {
		m.runs = m.runs.Union(phys.Runs{r.run})
	}
	return m
}

// TestSavedGuest: guest pages are found in their blocks, and one that isn't there
// is no page of zeros.
func TestSavedGuest(t *testing.T) {
	st := virtioMem(t)
	var plugged string
	for _, b := range st.Blocks {
		if b.Size == 64<<20 {
			plugged = b.Name
		}
	}
	const pages2M = 2 << 20 >> phys.PageShift
	tests := []struct {
		name string
		r    ramRange
		ok   bool
	}{
		{"plugged", rangeOf(0x100000, 2*pages2M, plugged, 0), true},
		{"plugged after a hole", rangeOf(0x100000+3*pages2M, pages2M, plugged, 6<<20), true},
		{"a hole in it", rangeOf(0x100000, 4*pages2M, plugged, 0), false},
		{"not plugged", rangeOf(0x100000, 1, plugged, 4<<20), false},
		{"last page of a hole", rangeOf(0x100000, 1, plugged, 6<<20-phys.PageSize), false},
		{"past the block", rangeOf(0x400, 2, "pc.ram", 4<<20-phys.PageSize), false},
		{"no such block", rangeOf(0, 1, "pc.rom2", 0), false},
		{"part of a page", rangeOf(0, 1, "pc.ram", 512), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := newSavedGuest(st, mapOf(t, rangeOf(0, 0x400, "pc.ram", 0), tt.r))
			if tt.name == "part of a page" || tt.name == "no such block" {
				g, err = newSavedGuest(st, mapOf(t, tt.r))
			}
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, hv.ErrFormat) {
				t.Fatalf("newSavedGuest() = %v; want success: %v", err, tt.ok)
			}
			if err != nil {
				return
			}
			checkPages(t, g, st, tt.r)
		})
	}
}

// checkPages holds all pages of r, read as the guest's, against its block.
func checkPages(t *testing.T, g *savedGuest, st *vmstate.Stream, r ramRange) {
	t.Helper()
	all := make([]byte, r.run.Size())
	if err := g.ReadPhys(t.Context(), all, r.run.Base.Addr()); err != nil {
		t.Fatal(err)
	}
	set, known, err := g.Populated(t.Context())
	if err != nil || !known {
		t.Fatalf("Populated() = known %v, %v", known, err)
	}
	for i := range r.run.Pages {
		page, kind := st.Block(r.block).Page(r.offset>>phys.PageShift + i)
		if page == nil {
			page = make([]byte, phys.PageSize)
		}
		if got := all[i*phys.PageSize : (i+1)*phys.PageSize]; !bytes.Equal(page, got) {
			t.Fatalf("page %d of %v (-block +guest):\n%s", i, r.run, cmp.Diff(page, got))
		}
		if got := set.Covers((r.run.Base + phys.PFN(i)).Addr(), phys.PageSize); got != (kind == vmstate.Data) {
			t.Errorf("page %d of %v is populated: %v; its kind is %v", i, r.run, got, kind)
		}
	}
}
