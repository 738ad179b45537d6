package capture

import (
	"bytes"
	"errors"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"snap/internal/ntlab"
	"snap/manifest"
	"snap/phys"
)

// TestZerosTakeNoRoom: a packed copy touches no more memory than the pages need that
// aren't zero, and what workers took and didn't use.
func TestZerosTakeNoRoom(t *testing.T) {
	const pages, workers = 64 << 10, 2
	m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: pages}}, bytes: make([]byte, pages<<phys.PageShift)}
	kept := uint64(0)
	for p := 0; p < pages; p += 17 {
		m.bytes[p<<phys.PageShift+p%phys.PageSize] = 1
		kept++
	}
	memory, err := newHostMemory(packedRoom(kept, workers) << phys.PageShift)
	if err != nil {
		t.Fatal(err)
	}
	c := newMemoryCopyIn(newPackedLayout(memory, pages), m, m.ram, true)
	defer c.Close()
	if err := c.fill(t.Context(), m, workers); err != nil {
		t.Fatalf("%d pages of %d aren't zero, and don't fit room for %d: %v", kept, pages, packedRoom(kept, workers), err)
	}
	got := make([]byte, len(m.bytes))
	if err := c.ReadPhys(t.Context(), got, 0); err != nil || !bytes.Equal(got, m.bytes) {
		t.Errorf("the copy reads as other bytes, or %v", err)
	}
}

// TestPackedCopyIsFull: more pages than there is memory for are an error, and nothing is
// written behind it.
func TestPackedCopyIsFull(t *testing.T) {
	const pages = 4 * slabPages
	m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: pages}}, bytes: bytes.Repeat([]byte{1}, pages<<phys.PageShift)}
	for _, room := range []uint64{0, 1, piecePages - 1, slabPages + 1, pages - 1} {
		memory, err := newHostMemory(room << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		c := newMemoryCopyIn(newPackedLayout(memory, pages), m, m.ram, true)
		if err := c.fill(t.Context(), m, 2); !errors.Is(err, errCopyFull) {
			t.Errorf("copying %d pages to room for %d = %v; want %v", pages, room, err, errCopyFull)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMostlyZeros: a guest most of whose pages are zeros is copied without them, by each
// mode that copies; its dump is the same as one that is written without a copy, also
// where none of the pages are zero any more when they are copied.
func TestMostlyZeros(t *testing.T) {
	t.Parallel()
	newVM := func(scribbled bool) *imageVM {
		vm := newGuest(t, ntlab.Config{Seed: 140})
		before := vm.im.Populated()
		if err := vm.im.Fill(48<<20, ntlab.Mix{Zero: 40, Random: 1}); err != nil {
			t.Fatal(err)
		}
		if scribbled {
			filled := vm.im.Populated().Minus(before)
			vm.onPause = func() { scribble(t, vm.im, filled) }
		}
		return vm
	}
	for name, tt := range map[string]struct {
		mode      Mode
		scribbled bool
	}{"pause": {Pause{}, false}, "live": {Live{}, false}, "pause, changed by then": {Pause{}, true}} {
		t.Run(name, func(t *testing.T) {
			vm := newVM(tt.scribbled)
			s, err := Open(t.Context(), vm, Options{Mode: tt.mode, MemoryCopy: 1 << 30})
			if err != nil {
				t.Fatal(err)
			}
			_, fit, err := s.copyPages(t.Context())
			if err := errors.Join(err, s.Close()); err != nil || !fit || !s.packs() {
				t.Fatalf("of the guest's pages %v are zero, and it is packed: %v, %v; want so", *s.zeros, s.packs(), err)
			}
			got, err := takeBy(t, &job{vm: vm, Options: Options{Mode: tt.mode, MemoryCopy: 1 << 30}})
			if err != nil {
				t.Fatal(err)
			}
			want, err := takeBy(t, pauseJob(newVM(tt.scribbled), 0))
			if err != nil {
				t.Fatal(err)
			}
			// In mode live, page tables and lists are read again, whether they are populated or not.
			unpopulated := cmpopts.IgnoreFields(manifest.Pages{}, "Unpopulated")
			if diff := cmp.Diff(want.res.Manifest.Pages, got.res.Manifest.Pages, unpopulated); diff != "" {
				t.Errorf("pages (-without a copy +packed):\n%s", diff)
			}
			if err := exec.Command("cmp", want.plain, got.plain).Run(); err != nil {
				t.Errorf("the dump differs from one that was written without a copy: %v", err)
			}
		})
	}
}

// scribble writes to those of the pages that are zero.
func scribble(t *testing.T, im *ntlab.Image, pages phys.Runs) {
	page := make([]byte, phys.PageSize)
	for _, r := range pages {
		for p := r.Base; p < r.End(); p++ {
			if err := im.ReadPhys(t.Context(), page, p.Addr()); err != nil {
				t.Error(err)
			}
			if bytes.Equal(page, zeroPage[:]) {
				page[p%phys.PageSize] = 0xA5
				if err := im.WritePhys(p.Addr(), page); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
