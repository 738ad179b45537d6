package labhv_test

import (
	"bytes"
	"slices"
	"testing"

	"snap/internal/ntlab"
	"snap/internal/ntlab/labhv"
	"snap/phys"
)

func image(t *testing.T, name string) *ntlab.Image {
	t.Helper()
	vm, err := labhv.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return vm.Image()
}

// TestAdvertisingGuest checks by the image's own memory what the commands are
// tried on: each page asked for holds its marker, but for the KDBG's.
func TestAdvertisingGuest(t *testing.T) {
	im := image(t, "win10-22h2-advert")
	if n := len(im.Truth.Adverts); n != 1 || len(im.Truth.Registrations) != 2 {
		t.Fatalf("%d adverts, %d registrations; want 1, 2", n, len(im.Truth.Registrations))
	}
	entries := im.Truth.Adverts[0].Tables[0].Entries
	if len(entries) != len(im.Truth.Marks)+1 || entries[len(entries)-1].Address != uint64(im.Truth.KDBG) {
		t.Fatalf("%d entries for %d marks", len(entries), len(im.Truth.Marks))
	}
	physical := 0
	for i, m := range im.Truth.Marks {
		if entries[i] != m.Request() {
			t.Errorf("entry %d = %+v; want %+v", i, entries[i], m.Request())
		}
		if entries[i].Flags == ntlab.RemovePhysical {
			physical++
		}
		for _, p := range m.PFNs {
			page := make([]byte, phys.PageSize)
			if err := im.ReadPhys(t.Context(), page, p.Addr()); err != nil || !bytes.Contains(page, m.Marker) {
				t.Errorf("page %#x lacks its marker (%v)", p, err)
			}
		}
	}
	if physical == 0 || physical == len(im.Truth.Marks) {
		t.Errorf("%d of %d entries are physical", physical, len(im.Truth.Marks))
	}
	silent := slices.IndexFunc(im.Truth.Registrations, func(r ntlab.Registration) bool { return r.Module != im.Truth.Adverts[0].Module })
	if silent < 0 {
		t.Error("no driver is silent")
	}
}

func TestHostileDomains(t *testing.T) {
	for _, profile := range ntlab.Profiles() {
		hostile, greedy := image(t, profile+"-hostile"), image(t, profile+"-greedy")
		if got, want := len(hostile.Truth.Adverts), len(ntlab.AdvertAttacks())-1; got < want {
			t.Errorf("%s: %d adverts for %d attacks", profile, got, want)
		}
		var pages uint64
		for _, e := range greedy.Truth.Adverts[0].Tables[0].Entries {
			pages += e.Count
		}
		if all := greedy.RAM().Pages(); len(greedy.Truth.Adverts) != 1 || pages <= all/2 {
			t.Errorf("%s: the greedy guest asks for %d of %d pages", profile, pages, all)
		}
	}
}
