package capture

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/exclude"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestLostPagesAreSaid: pages that page tables don't lead to are in the dump, which
// the account says of each request for them, and of the guest.
func TestLostPagesAreSaid(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) { // there are three ways to hide frame numbers
		for _, profile := range ntlab.Profiles() {
			vm := newGuest(t, ntlab.Config{Seed: 300 + seed, Profile: profile})
			const n = 8
			small := mark(t, vm.im, ntlab.MarkSmall, n)
			lost := mark(t, vm.im, ntlab.MarkLost, n)
			advertise(t, vm.im, small.Request(), lost.Request())
			d := mustTake(t, vm, LookOptions{})
			if holds(t, d.plain, small.Marker[:16]) || !holds(t, d.plain, lost.Marker[:16]) {
				t.Errorf("%s: what can be found is in the dump, or what can't isn't", profile)
			}
			a, man := d.res.Analysis, d.res.Manifest
			if want := (Unmet{Unmet: exclude.Unmet{Unresolved: 1, Pages: n}}); a.Unmet != want || !a.Degraded() {
				t.Errorf("%s: unmet: %+v, degraded: %v; want %+v", profile, a.Unmet, a.Degraded(), want)
			}
			if u := man.Unmet; u.Unresolved != 1 || u.Pages != n || u.Refused+u.Unread != 0 {
				t.Errorf("%s: the account of what is unmet: %+v", profile, u)
			}
			var got []uint64
			for _, e := range man.Excluded {
				got = append(got, e.Pages, e.Unresolved)
			}
			if diff := cmp.Diff([]uint64{n, 0, 0, n}, got); diff != "" {
				t.Errorf("%s: pages left out and lost, by request (-want +got):\n%s", profile, diff)
			}
			if said := strings.Join(d.res.Contents, "\n"); !strings.Contains(said, "8 pages that secretive.sys asks to leave out may be in the dump") {
				t.Errorf("%s: said of the contents: %q", profile, said)
			}
		}
	}
}

func mark(t *testing.T, im *ntlab.Image, kind ntlab.MarkKind, n int) ntlab.Marked {
	t.Helper()
	marks, err := im.Mark(n, kind)
	if err != nil {
		t.Fatal(err)
	}
	return marks[0]
}

func advertise(t *testing.T, im *ntlab.Image, entries ...ntlab.RemovePages) {
	t.Helper()
	if _, err := im.Advertise("secretive.sys", &ntlab.Advert{Entries: entries}); err != nil {
		t.Fatal(err)
	}
}

// operators turns what a driver would ask for into an operator's wish.
func operators(r ntlab.RemovePages) exclude.Request {
	return exclude.Request{By: "--exclude", Reason: exclude.Operator, Flags: r.Flags, Address: r.Address, Pages: r.Count}
}

// TestOperatorsOddPages does for an operator's ranges what TestAdvertisedPagesAreGone
// does for adverts: whatever its page table entries look like, a page that can be
// found is gone.
func TestOperatorsOddPages(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 310})
	var requests []exclude.Request
	var markers [][]byte
	for _, kind := range ntlab.MarkKinds() {
		if kind == ntlab.MarkHuge || kind == ntlab.MarkRunEnds {
			continue
		}
		m := mark(t, vm.im, kind, 7)
		requests, markers = append(requests, operators(m.Request())), append(markers, m.Marker)
	}
	d := mustTake(t, vm, LookOptions{Exclusion: Exclusion{Requests: requests, Require: true}})
	for i, m := range markers {
		if holds(t, d.plain, m[:16]) || holds(t, d.plain, m[20:36]) {
			t.Errorf("what %v asks to leave out is in the dump", requests[i])
		}
	}

	lost, small := mark(t, vm.im, ntlab.MarkLost, 7), mark(t, vm.im, ntlab.MarkSmall, 2)
	if _, err := take(t, vm, LookOptions{Exclusion: Exclusion{Requests: []exclude.Request{operators(lost.Request())}}}); !errors.Is(err, ErrNotExcluded) {
		t.Errorf("of pages that nobody finds: %v; want ErrNotExcluded", err)
	}
	// A range in which some are found.
	pte, ok := vm.im.EntryAddr(small.VA+phys.PageSize, 1)
	if !ok {
		t.Fatal("no page table")
	}
	if err := vm.im.WritePhys(pte, []byte{0x20, 0x04, 0, 0, 0xff, 0xff, 0xff, 0xff}); err != nil { // by the VAD
		t.Fatal(err)
	}
	look := LookOptions{Exclusion: Exclusion{Requests: []exclude.Request{operators(small.Request())}}}
	d = mustTake(t, vm, look)
	if u := d.res.Analysis.Unmet; u.Pages != 1 || !d.res.Analysis.Degraded() {
		t.Errorf("of a range half of which is found: unmet: %+v; want a page, and a degraded dump", u)
	}
	look.Exclusion.Require = true
	if _, err := take(t, vm, look); !errors.Is(err, ErrUnmet) {
		t.Errorf("of the same, if all must stay out: %v; want ErrUnmet", err)
	}
}

// TestUnmet holds the rule against guests of every kind: a dump is degraded, and
// refused on demand before the guest is held, if and only if a page is or may be in
// it that somebody asked to leave out.
func TestUnmet(t *testing.T) {
	t.Parallel()
	type guestEdit struct {
		name string
		edit func(t *testing.T, im *ntlab.Image)
		want Unmet
	}
	refused := func(n int) Unmet { return Unmet{Unmet: exclude.Unmet{Refused: n}} }
	unread := func(n int) Unmet { return Unmet{Unread: n} }
	asks := func(entries ...ntlab.RemovePages) func(*testing.T, *ntlab.Image) {
		return func(t *testing.T, im *ntlab.Image) { advertise(t, im, entries...) }
	}
	pa := func(at, pages uint64) ntlab.RemovePages {
		return ntlab.RemovePages{Flags: ntlab.RemovePhysical, Address: at, Count: pages}
	}
	va := func(at phys.VirtAddr, pages uint64) ntlab.RemovePages {
		return ntlab.RemovePages{Flags: ntlab.RemoveVirtual, Address: uint64(at), Count: pages}
	}
	guests := []guestEdit{
		{"nobody asks", func(*testing.T, *ntlab.Image) {}, Unmet{}},
		{"all is granted", func(t *testing.T, im *ntlab.Image) {
			for _, kind := range []ntlab.MarkKind{ntlab.MarkSmall, ntlab.MarkHidden, ntlab.MarkPartly, ntlab.MarkPrototype} {
				if _, err := im.Advertise(fmt.Sprintf("d%d.sys", len(im.Truth.Adverts)), &ntlab.Advert{Entries: []ntlab.RemovePages{mark(t, im, kind, 9).Request()}}); err != nil {
					t.Fatal(err)
				}
			}
		}, Unmet{}},
		{"of what isn't in memory", asks(va(0xffff_8000_0000_0000, 5), va(0x10_0000_0000, 1)), Unmet{}},
		{"of what is outside of all memory", asks(pa(1<<40, 7), pa(0xfee0_0000, 1), va(0x8000_0000_0000, 9)), Unmet{}},
		{"of nothing, and for another bug check", asks(
			ntlab.RemovePages{}, ntlab.RemovePages{Flags: ntlab.RemovePhysical, BugCheckCode: 0xD1, Address: 0x200_0000, Count: 1}), Unmet{}},
		{"of what is in memory in part", asks(pa(0xfff0_0000, 1<<20), pa(0, 1<<20)), refused(1)},
		{"of the KDBG", func(t *testing.T, im *ntlab.Image) { advertise(t, im, va(im.Truth.KDBG, 1)) }, refused(1)},
		{"with flags that nobody knows", asks(ntlab.RemovePages{Flags: 1 | 8, Address: 1 << 40, Count: 1}, pa(1<<40, 1)), refused(1)},
		{"a registered callback alone", func(t *testing.T, im *ntlab.Image) {
			if _, err := im.Register("silent.sys"); err != nil {
				t.Fatal(err)
			}
		}, Unmet{}},
		{"a table that changes for ever", attackAdvert("odd sequence"), unread(1)},
		{"tables that are none", attackAdvert("not a table"), unread(4)},
		{"a chain that leads nowhere", attackAdvert("next"), unread(6)},
		{"more tables than are read", attackAdvert("long chain"), unread(1)},
		{"a list of modules that has no end", func(t *testing.T, im *ntlab.Image) { edit(t, im, "module cycle") }, unread(1)},
		{"a list of modules that leaves memory", func(t *testing.T, im *ntlab.Image) { edit(t, im, "list leaves memory") }, unread(1)},
	}
	for _, tt := range guests {
		t.Run(tt.name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 320})
			tt.edit(t, vm.im)
			a, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, a.Unmet); diff != "" {
				t.Errorf("unmet (-want +got):\n%s\nwarnings: %q", diff, a.Warnings)
			}
			bad := tt.want != Unmet{}
			if a.Degraded() != bad || a.Unmet.Any() != bad || (len(a.Contents) > 0) != bad || (len(a.whyUnmet) > 0) != bad {
				t.Errorf("degraded: %v, said of the contents: %q; want it: %v", a.Degraded(), a.Contents, bad)
			}
			for _, mode := range []Mode{Pause{}, Live{}} {
				j := &job{vm: vm, Options: Options{Mode: mode, MemoryCopy: spoolSize, MaxChanged: &ChangeLimit{Share: 1}}}
				j.Look.Exclusion.Require = true
				var out bytes.Buffer
				holds := vm.holds
				_, err := j.take(t.Context(), &out)
				if errors.Is(err, ErrUnmet) != bad || (err != nil) != bad {
					t.Errorf("mode %s, if all must stay out: %v; want ErrUnmet: %v", mode.Name(), err, bad)
				}
				if bad && (out.Len() > 0 || vm.holds != holds) {
					t.Errorf("mode %s: %d bytes were written, and the guest held %d times", mode.Name(), out.Len(), vm.holds-holds)
				}
			}
			kept, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), LookOptions{Exclusion: Exclusion{NoAdvertised: true}})
			if err != nil {
				t.Fatal(err)
			}
			// A list that is broken is lacking, whatever is kept.
			if kept.Degraded() != (len(kept.lacks) > 0) || kept.Unmet.Any() || (kept.Unmet.Kept > 0) != (len(kept.Contents) > len(kept.lacks)) {
				t.Errorf("with all kept: %+v, said of the contents: %q; want nothing unmet, and what is kept said", kept.Unmet, kept.Contents)
			}
		})
	}
}

func attackAdvert(name string) func(*testing.T, *ntlab.Image) {
	return func(t *testing.T, im *ntlab.Image) {
		t.Helper()
		all := ntlab.AdvertAttacks()
		i := slices.IndexFunc(all, func(a ntlab.AdvertAttack) bool { return a.Name == name })
		if i < 0 {
			t.Fatalf("no attack %q", name)
		}
		if _, err := all[i].Edit(im); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnmetWhenHeld: what is met while the guest runs but not at the moment of the
// dump counts too, and keeps the dump from being made if it must.
func TestUnmetWhenHeld(t *testing.T) {
	for _, require := range []bool{false, true} {
		vm := newGuest(t, ntlab.Config{Seed: 330})
		m := mark(t, vm.im, ntlab.MarkSmall, 1)
		advertise(t, vm.im, m.Request())
		table := vm.im.Truth.Adverts[0].Tables[0].VA
		vm.onPause = func() {
			if err := vm.im.WriteVirt(table+0x10, []byte{1, 0, 0, 0}); err != nil { // the driver is changing it
				t.Error(err)
			}
		}
		d, err := take(t, vm, LookOptions{Exclusion: Exclusion{Require: require}})
		if require {
			if !errors.Is(err, ErrUnmet) || vm.paused.Load() || vm.holds != 1 {
				t.Errorf("a table that changes when the guest is held: %v, still held: %v; want ErrUnmet", err, vm.paused.Load())
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if a := d.res.Analysis; a.Unmet.Unread != 1 || !a.Degraded() || holds(t, d.plain, m.Marker[:16]) {
			t.Errorf("a table that changes when the guest is held: unmet: %+v; want what it said before left out, and that said", a.Unmet)
		}
	}
}

// TestEarlierIsNoVerdict: in mode live, a look at the guest that fails can be stood in
// for by an earlier one, but not if it says that there must be no dump.
func TestEarlierIsNoVerdict(t *testing.T) {
	open := func(look LookOptions) (*imageVM, *Session) {
		vm := newGuest(t, ntlab.Config{Seed: 331})
		advertise(t, vm.im, mark(t, vm.im, ntlab.MarkSmall, 1).Request())
		s, err := Open(t.Context(), vm, Options{Mode: Live{}, MemoryCopy: spoolSize, MaxChanged: &ChangeLimit{Share: 1}, Look: look})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return vm, s
	}
	vm, s := open(LookOptions{Exclusion: Exclusion{Require: true}})
	advertiseToo(t, vm.im, ntlab.RemovePages{Flags: ntlab.RemoveVirtual, Address: uint64(vm.im.Truth.KDBG), Count: 1})
	if _, err := s.Dump(t.Context(), new(bytes.Buffer)); !errors.Is(err, ErrUnmet) {
		t.Errorf("a driver that asks for the KDBG meanwhile: %v; want ErrUnmet", err)
	}
	vm, s = open(LookOptions{Exclusion: Exclusion{Limit: Limit{Pages: 2}}})
	advertiseToo(t, vm.im, mark(t, vm.im, ntlab.MarkSmall, 9).Request())
	if _, err := s.Dump(t.Context(), new(bytes.Buffer)); !errors.Is(err, exclude.ErrTooMany) {
		t.Errorf("a driver that asks for too much meanwhile: %v; want ErrTooMany", err)
	}
}

// advertiseToo loads another driver that asks.
func advertiseToo(t *testing.T, im *ntlab.Image, entries ...ntlab.RemovePages) {
	t.Helper()
	if _, err := im.Advertise("another.sys", &ntlab.Advert{Entries: entries}); err != nil {
		t.Fatal(err)
	}
}
