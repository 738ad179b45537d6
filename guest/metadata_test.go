package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestReadMetadata: two readings of a guest that stands still say the same, whatever
// the registers, and the pages are those that a dump needs.
func TestReadMetadata(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		im := build(t, ntlab.Config{Profile: p, Seed: 130})
		first, err := guest.ReadMetadata(t.Context(), im, im.RAM(), im.Registers())
		if err != nil {
			t.Fatalf("%s: ReadMetadata failed: %v", p, err)
		}
		again, err := guest.ReadMetadata(t.Context(), im, im.RAM(), nil)
		if err != nil || !first.Equal(again) {
			t.Errorf("%s: ReadMetadata without registers = %v, and differs (-want +got):\n%s", p, err, cmp.Diff(first, again))
		}
		want := guest.MetadataOf(protected(t, im))
		if !cmp.Equal(first.Pages, want.Pages) || !cmp.Equal(first.Tables, want.Tables) || len(want.Tables) == 0 {
			t.Errorf("%s: core on %d pages, %d tables; want %d, %d", p,
				first.Pages.Pages(), first.Tables.Pages(), want.Pages.Pages(), want.Tables.Pages())
		}
		if len(first.Processes) != len(im.Truth.Processes) || len(first.Modules) != len(im.Truth.Modules) ||
			len(first.Processors) != len(im.Truth.Processors) || first.Broken != nil {
			t.Errorf("%s: %d processes, %d modules, %d processors, broken %q", p, len(first.Processes),
				len(first.Modules), len(first.Processors), first.Broken)
		}
	}
}

// TestCoreDiffers: a reading of another process list, or of a broken one, is not
// the same.
func TestCoreDiffers(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 131})
	read := func() *guest.Metadata {
		t.Helper()
		c, err := guest.ReadMetadata(t.Context(), im, im.RAM(), im.Registers())
		if err != nil {
			t.Fatalf("ReadMetadata failed: %v", err)
		}
		return c
	}
	whole := read()
	// Break the list behind its second process, then cut it there.
	head := im.Truth.PsActiveProcessHead
	var first [8]byte
	if err := im.ReadVirt(head, first[:]); err != nil {
		t.Fatal(err)
	}
	links := phys.VirtAddr(binary.LittleEndian.Uint64(first[:])) - im.Truth.SystemProcess
	last := im.Truth.Processes[1].EPROCESS + links
	put := func(at, v phys.VirtAddr) {
		t.Helper()
		if err := im.WriteVirt(at, binary.LittleEndian.AppendUint64(nil, uint64(v))); err != nil {
			t.Fatal(err)
		}
	}
	put(last, im.Truth.Processes[3].EPROCESS+links)
	broken := read()
	if len(broken.Broken) == 0 || whole.Equal(broken) {
		t.Errorf("core with a broken list: Broken = %q, Equal %v; want it to differ and say so", broken.Broken, whole.Equal(broken))
	}
	put(last, head)
	put(head+8, last)
	short := read()
	if len(short.Processes) != 2 || len(short.Broken) != 0 || whole.Equal(short) || broken.Equal(short) {
		t.Errorf("core with a short list: %d processes, Broken = %q; want 2, and another core", len(short.Processes), short.Broken)
	}
}

func TestReadMetadataRefuses(t *testing.T) {
	m, ram, cpus := linux()
	if c, err := guest.ReadMetadata(t.Context(), m, ram, cpus); c != nil || !errors.Is(err, guest.ErrNotWindows) {
		t.Errorf("ReadMetadata of another system = %v, %v; want ErrNotWindows", c, err)
	}
	im := build(t, ntlab.Config{Seed: 132})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := guest.ReadMetadata(ctx, im, im.RAM(), im.Registers()); c != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("ReadMetadata with an ended context = %v, %v; want context.Canceled", c, err)
	}
}
