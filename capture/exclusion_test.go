package capture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"snap/exclude"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

func mustTake(t *testing.T, vm *imageVM, o LookOptions) *taken {
	t.Helper()
	d, err := take(t, vm, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// holds reports whether b is anywhere in the file at path.
func holds(t *testing.T, path string, b []byte) bool {
	t.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(all, b)
}

// comparePages demands that the dump has exactly the given pages, and that
// each is the image's but for the bytes of the decoded KDBG and the contexts.
func (d *taken) comparePages(t *testing.T, im *ntlab.Image, want phys.Runs) {
	t.Helper()
	if got := d.file.RAM(); len(got.Minus(want)) > 0 || len(want.Minus(got)) > 0 {
		t.Fatalf("dump has %d pages, of which %d should stay out; %d are missing",
			got.Pages(), got.Minus(want).Pages(), want.Minus(got).Pages())
	}
	overlaid := map[phys.PFN]bool{}
	mark := func(va phys.VirtAddr, n int) {
		for at := va.Page(); at < va+phys.VirtAddr(n); at += phys.PageSize {
			pa, ok := im.Translate(at)
			if !ok {
				t.Fatalf("the image does not map %#x", at)
			}
			overlaid[pa.PFN()] = true
		}
	}
	mark(im.Truth.KDBG, len(im.Truth.KDBGPlain))
	for _, p := range im.Truth.Processors {
		mark(p.Context, header.ContextSizeAMD64)
	}
	got, exp := make([]byte, phys.PageSize), make([]byte, phys.PageSize)
	for _, r := range want {
		for p := r.Base; p < r.End(); p++ {
			if err := errors.Join(d.file.ReadPhys(t.Context(), got, p.Addr()), im.ReadPhys(t.Context(), exp, p.Addr())); err != nil {
				t.Fatal(err)
			}
			if !overlaid[p] && !bytes.Equal(got, exp) {
				t.Fatalf("page %#x is not the guest's", uint64(p))
			}
		}
	}
}

// windowsPages is what a dump without exclusions holds.
func windowsPages(t *testing.T, im *ntlab.Image) phys.Runs {
	t.Helper()
	runs, err := phys.NewRuns(im.Truth.Runs...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// pagesOfFrames makes a set of single pages.
func pagesOfFrames(t *testing.T, pfns ...phys.PFN) phys.Runs {
	t.Helper()
	var rs []phys.Run
	for _, p := range pfns {
		rs = append(rs, phys.Run{Base: p, Pages: 1})
	}
	runs, err := phys.NewRuns(rs...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// TestAdvertisedPagesAreGone demands that what a driver advertises is nowhere
// in the dump, wherever its pages are and however it names them, that nothing
// else is missing, and that the same dump without adverts has it all.
func TestAdvertisedPagesAreGone(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{FormatAuto, FormatBitmap} {
		for _, kind := range ntlab.MarkKinds() {
			if kind == ntlab.MarkHuge {
				continue // needs 4 GiB: TestPartOfHugePageIsGone
			}
			t.Run(fmt.Sprintf("%s/%s", format, kind), func(t *testing.T) {
				vm := newGuest(t, ntlab.Config{LA57: format == FormatBitmap}) // of both pagings
				checkGone(t, vm, kind, format)
			})
		}
	}
}

func checkGone(t *testing.T, vm *imageVM, kind ntlab.MarkKind, format Format) {
	t.Helper()
	im := vm.im
	marks, err := im.Mark(5, kind)
	if err != nil {
		t.Fatal(err)
	}
	var entries []ntlab.RemovePages
	var gone phys.Runs
	for _, m := range marks {
		entries = append(entries, m.Request())
		gone = gone.Union(pagesOfFrames(t, m.PFNs...))
	}
	if _, err := im.Advertise("secretive.sys", &ntlab.Advert{Entries: entries, Offset: 0xfe8}); err != nil {
		t.Fatal(err)
	}
	all := windowsPages(t, im)
	d := mustTake(t, vm, LookOptions{Format: format})
	d.comparePages(t, im, all.Minus(gone))
	for _, m := range marks {
		if holds(t, d.plain, m.Marker[:16]) || holds(t, d.plain, m.Marker[9:25]) {
			t.Errorf("the marker of %s is in the expanded dump", m.Kind)
		}
		if holds(t, d.packed, m.Marker[:16]) || bytes.Contains(d.file.Metadata(), m.Marker[:16]) {
			t.Errorf("the marker of %s is in the container", m.Kind)
		}
	}
	if got, want := d.res.Analysis.Excluded, all.Intersect(gone).Pages(); got != want || want == 0 {
		t.Errorf("%d pages are said to be excluded; want %d", got, want)
	}
	if n := len(d.res.Analysis.Exclusions.Entries); n != len(entries) {
		t.Errorf("%d requests are honoured; want %d", n, len(entries))
	}

	kept := mustTake(t, vm, LookOptions{Format: format, Exclusion: Exclusion{NoAdvertised: true}})
	kept.comparePages(t, im, all)
	if n := len(kept.res.Analysis.Exclusions.Ignored); n != len(entries) {
		t.Errorf("with adverts off, %d requests are listed; want %d", n, len(entries))
	}
	for _, m := range marks {
		if len(pagesOfFrames(t, m.PFNs...).Intersect(all)) > 0 && !holds(t, kept.plain, m.Marker[:16]) {
			t.Errorf("with adverts off, the marker of %s is not in the dump: the search proves nothing", m.Kind)
		}
	}
}

// TestPartOfHugePageIsGone does the same for a part of a 1 GiB page, which
// needs a guest too large to compare in full.
func TestPartOfHugePageIsGone(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Memory: 4 << 30})
	marks, err := vm.im.Mark(5, ntlab.MarkHuge)
	if err != nil {
		t.Fatal(err)
	}
	m := marks[0]
	if _, err := vm.im.Advertise("secretive.sys", &ntlab.Advert{Entries: []ntlab.RemovePages{m.Request()}}); err != nil {
		t.Fatal(err)
	}
	d := mustTake(t, vm, LookOptions{})
	gone := pagesOfFrames(t, m.PFNs...)
	all := windowsPages(t, vm.im)
	if got, want := d.file.RAM(), all.Minus(gone); !slices.Equal(got, want) || len(gone.Minus(all)) > 0 {
		t.Errorf("dump has runs %v; want %v", got, want)
	}
	page := make([]byte, phys.PageSize)
	for _, r := range d.file.RAM().Intersect(vm.im.Populated()) {
		for p := r.Base; p < r.End(); p++ {
			if err := d.file.ReadPhys(t.Context(), page, p.Addr()); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(page, m.Marker[:16]) {
				t.Fatalf("the marker is in page %#x of the dump", uint64(p))
			}
		}
	}
}

// TestManyHoles demands a full dump with split runs for 30 holes, and a bitmap
// dump for ten thousand.
func TestManyHoles(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		holes int
		want  header.DumpType
	}{
		{30, header.DumpTypeFull},
		{10_000, header.DumpTypeBitmapFull},
	} {
		t.Run(fmt.Sprint(tt.holes), func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Memory: 128 << 20})
			protected := protectedPages(t, vm)
			im := vm.im
			free := windowsPages(t, im).Minus(protected)
			var requests []exclude.Request
			var gone []phys.PFN
			every := free.Pages() / uint64(tt.holes)
			n := uint64(0)
			for _, r := range free {
				for p := r.Base; p < r.End() && len(gone) < tt.holes; p++ {
					if n++; n%every != 0 {
						continue
					}
					gone = append(gone, p)
					requests = append(requests, exclude.Request{
						By: "test", Reason: exclude.Operator, Flags: exclude.FlagPhysical, Address: uint64(p.Addr()), Pages: 1,
					})
				}
			}
			d := mustTake(t, vm, LookOptions{Exclusion: Exclusion{Requests: requests}})
			h, err := d.file.Header()
			if err != nil {
				t.Fatal(err)
			}
			if h.DumpType != tt.want {
				t.Errorf("dump is of type %v; want %v", h.DumpType, tt.want)
			}
			d.comparePages(t, im, windowsPages(t, im).Minus(pagesOfFrames(t, gone...)))

			_, err = take(t, vm, LookOptions{Format: FormatFull, Exclusion: Exclusion{Requests: requests}})
			if wantErr := tt.holes > header.MaxRuns; errors.Is(err, ErrTooManyRuns) != wantErr || (err != nil) != wantErr {
				t.Errorf("the same as a full dump: error %v; want one: %v", err, wantErr)
			}
		})
	}
}

// protectedPages is what exclusion refuses, so that tests ask for other pages.
func protectedPages(t *testing.T, vm *imageVM) phys.Runs {
	t.Helper()
	s, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sets, err := s.System.Protected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all phys.Runs
	for _, s := range sets {
		all = all.Union(s.Pages)
	}
	return all
}

// TestHostileAdverts demands a dump that opens, holding all but what a careful
// reader leaves out, of every guest that advertises to spoil it.
func TestHostileAdverts(t *testing.T) {
	t.Parallel()
	for _, attack := range ntlab.AdvertAttacks() {
		t.Run(attack.Name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{})
			im := vm.im
			want, err := attack.Edit(im)
			if err != nil {
				t.Fatal(err)
			}
			d, err := take(t, vm, LookOptions{})
			if want.TooMany {
				if !errors.Is(err, exclude.ErrTooMany) {
					t.Fatalf("error is %v; want %v", err, exclude.ErrTooMany)
				}
				d, err = take(t, vm, LookOptions{Exclusion: Exclusion{NoAdvertised: true}})
				want.Excluded = nil
			}
			if err != nil {
				t.Fatal(err)
			}
			if want.Limited == 0 {
				d.comparePages(t, im, windowsPages(t, im).Minus(want.Excluded))
			}
			refused := 0
			for _, r := range d.res.Analysis.Exclusions.Refused {
				refused += r.Requests
			}
			if refused < want.Refused || refused > want.Refused+want.Limited {
				t.Errorf("%d requests are refused; want %d, and at most %d beyond limits", refused, want.Refused, want.Limited)
			}
			if bad := want.Refused + want.Broken + want.Unstable; bad > 0 && len(d.res.Manifest.Warnings) == 0 {
				t.Errorf("no warning of %d bad requests and tables", bad)
			}
		})
	}
}
