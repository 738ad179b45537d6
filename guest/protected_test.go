package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// union returns all protected pages.
func union(set []guest.ProtectedPages) phys.Runs {
	var all phys.Runs
	for _, p := range set {
		all = all.Union(p.Pages)
	}
	return all
}

// of returns the pages protected for one reason.
func of(set []guest.ProtectedPages, reason string) phys.Runs {
	for _, p := range set {
		if p.Reason == reason {
			return p.Pages
		}
	}
	return nil
}

func checkDisjoint(t *testing.T, im *ntlab.Image, set []guest.ProtectedPages) {
	t.Helper()
	var n uint64
	for _, p := range set {
		if len(p.Pages) == 0 {
			t.Errorf("no pages for %q", p.Reason)
		}
		n += p.Pages.Pages()
	}
	all := union(set)
	if all.Pages() != n || len(all.Minus(im.RAM())) != 0 {
		t.Errorf("%d pages, of which %d are others; outside of RAM are %v", n, n-all.Pages(), all.Minus(im.RAM()))
	}
}

// reasons are why pages are protected, in the order that Protected keeps.
var reasons = []string{
	"page table", "KDBG", "KUSER_SHARED_DATA", "kernel image headers", "KPCR and KPRCB", "processor context",
	"PsLoadedModuleList", "PsActiveProcessHead", "kernel variable",
}

// labTables returns the page tables of the kernel's half, by level.
func labTables(t *testing.T, im *ntlab.Image) [6]map[phys.PFN]bool {
	t.Helper()
	root := im.Truth.DirectoryTableBase.PFN()
	top := 4
	if im.Config.LA57 {
		top = 5
	}
	var found [6]map[phys.PFN]bool
	found[top] = map[phys.PFN]bool{root: true}
	for level := top; level > 1; level-- {
		found[level-1] = map[phys.PFN]bool{}
		for table := range found[level] {
			var page [512]uint64
			b := make([]byte, phys.PageSize)
			if err := im.ReadPhys(t.Context(), b, table.Addr()); err != nil {
				t.Fatal(err)
			}
			if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &page); err != nil {
				t.Fatal(err)
			}
			for i, e := range page {
				next := phys.PFN(e >> 12 & (1<<40 - 1))
				if level == top && (i < 256 || next == root) || e&1 == 0 || level < 4 && e&0x80 != 0 || !im.RAM().Has(next) {
					continue
				}
				found[level-1][next] = true
			}
		}
	}
	return found
}

func protected(t *testing.T, im *ntlab.Image) []guest.ProtectedPages {
	t.Helper()
	s, err := discover(t, im)
	if err != nil {
		t.Fatalf("Discover failed: %v", err)
	}
	set, err := s.Protected(t.Context())
	if err != nil {
		t.Fatalf("Protected failed: %v", err)
	}
	checkDisjoint(t, im, set)
	return set
}

func TestProtected(t *testing.T) {
	for name, c := range labConfigs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im := build(t, c)
			set := protected(t, im)

			var want []phys.Run
			for _, level := range labTables(t, im) {
				for pfn := range level {
					want = append(want, phys.Run{Base: pfn, Pages: 1})
				}
			}
			tables, err := phys.NewRuns(want...)
			if err != nil {
				t.Fatal(err)
			}
			if got := of(set, "page table"); !slices.Equal(got, tables) {
				t.Errorf("%d pages of page tables; want %d; missing %v, too many %v", got.Pages(), tables.Pages(),
					tables.Minus(got), got.Minus(tables))
			}
			all := union(set)
			// A page is protected for the first reason there is.
			has := func(reason string, va phys.VirtAddr, n int) {
				t.Helper()
				var have phys.Runs
				for _, r := range reasons[:slices.Index(reasons, reason)+1] {
					have = have.Union(of(set, r))
				}
				for at := va.Page(); at < va+phys.VirtAddr(n); at += phys.PageSize {
					if pa, ok := im.Translate(at); !ok || !have.Has(pa.PFN()) {
						t.Errorf("page at %#x is not protected as %s", uint64(at), reason)
					}
				}
			}
			has("kernel image headers", im.Truth.KernelBase, 0x800)
			has("KDBG", im.Truth.KDBG, len(im.Truth.KDBGPlain))
			has("KUSER_SHARED_DATA", 0xFFFF_F780_0000_0000, 0x1000)
			for _, p := range im.Truth.Processors {
				has("KPCR and KPRCB", p.KPCR, 0x180)
				has("KPCR and KPRCB", p.KPRCB, int(binary.LittleEndian.Uint16(im.Truth.KDBGPlain[0x2B0:])))
				has("processor context", p.Context, 0x4D0)
			}
			has("PsLoadedModuleList", im.Truth.PsLoadedModuleList, 16)
			has("PsActiveProcessHead", im.Truth.PsActiveProcessHead, 16)
			has("PsActiveProcessHead", im.Truth.SystemProcess, 0x300)
			has("kernel variable", symbol(t, im, "KiProcessorBlock"), 8*len(im.Truth.Processors)+8)
			has("kernel variable", phys.VirtAddr(binary.LittleEndian.Uint64(im.Truth.KDBGPlain[0x88:])), 40)
			has("kernel variable", symbol(t, im, "PsInitialSystemProcess"), 8)
			// The rest of the guest may go: a few dozen pages are little.
			if others := all.Minus(tables).Pages(); others > 600 {
				t.Errorf("%d pages beside the page tables", others)
			}
		})
	}
}

// A guest of which only the protected pages are left is opened as before.
func TestOpenProtectedPagesOnly(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		for _, small := range []bool{false, true} {
			im := build(t, ntlab.Config{Profile: p, Seed: 120, PlainKDBG: true, SmallPages: small})
			left := union(protected(t, im))
			s, err := guest.Open(t.Context(), im, left, im.Truth.DirectoryTableBase, im.Truth.KDBG)
			if err != nil {
				t.Errorf("%s: Open failed: %v", p, err)
				continue
			}
			want, err := guest.Open(t.Context(), im, im.RAM(), im.Truth.DirectoryTableBase, im.Truth.KDBG)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Warnings) != 1 || !hasWarning(s, "outside of RAM") { // the runs are larger than what is left
				t.Errorf("%s: Warnings = %q", p, s.Warnings)
			}
			if diff := cmp.Diff(want.Processors, s.Processors); diff != "" {
				t.Errorf("%s: processors (-want +got):\n%s", p, diff)
			}
			if diff := cmp.Diff(origins(want), origins(s)); diff != "" {
				t.Errorf("%s: origins (-want +got):\n%s", p, diff)
			}
			checkLists(t, im, s)
		}
	}
}

// The tables are read once each, but for those of the lowest level.
func TestProtectedReads(t *testing.T) {
	for _, c := range []ntlab.Config{{Seed: 121, SmallPages: true}, {Seed: 121, SmallPages: true, LA57: true}} {
		testProtectedReads(t, build(t, c))
	}
}

func testProtectedReads(t *testing.T, im *ntlab.Image) {
	t.Helper()
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	found := labTables(t, im)
	reads := map[phys.PFN]int{}
	s.Space = s.Arch.AddressSpace(s.Space.Paging(), &watched{im, func(p []byte, at phys.Addr) {
		if len(p) == phys.PageSize {
			reads[at.PFN()]++
		}
	}}, im.RAM(), s.DirectoryTableBase.Value)
	if _, err := s.Protected(t.Context()); err != nil {
		t.Fatal(err)
	}
	once := 0
	for level := 1; level < len(found); level++ {
		for table := range found[level] {
			switch n := reads[table]; {
			case level > 1 && (n < 1 || n > 2): // by the walk, and on the way to what else is read
				t.Errorf("table %#x of level %d was read %d times", uint64(table), level, n)
			case level == 1 && n > 1:
				t.Errorf("page table %#x was read %d times", uint64(table), n)
			case level == 1 && n == 0:
				once++
			}
		}
	}
	if once == 0 {
		t.Error("every page table was read")
	}
}

// Tables that are not used now but still there count, whatever their level,
// and so does one that is found at two levels.
func TestProtectedTables(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 122})
	root := im.Truth.DirectoryTableBase
	frames, err := im.AllocPhys(7)
	if err != nil {
		t.Fatal(err)
	}
	set := func(table phys.Addr, i int, e uint64) {
		if err := im.WritePhys(table+phys.Addr(8*i), binary.LittleEndian.AppendUint64(nil, e)); err != nil {
			t.Fatal(err)
		}
	}
	free := -1
	for i := 256; i < 512 && free < 0; i++ {
		var b [8]byte
		if err := im.ReadPhys(t.Context(), b[:], root+phys.Addr(8*i)); err != nil {
			t.Fatal(err)
		}
		if b == [8]byte{} {
			free = i
		}
	}
	set(root, free, uint64(frames[0].Addr())|3)
	set(frames[0].Addr(), 0, uint64(frames[1].Addr())|1<<11)       // in transition
	set(frames[0].Addr(), 1, uint64(frames[2].Addr())|1<<11|1<<10) // a prototype's: no table
	set(frames[1].Addr(), 0, uint64(frames[3].Addr())|3)
	set(frames[1].Addr(), 1, uint64(frames[4].Addr())|0x83) // a large page: no table
	// frames[3] is the lowest level there, and the middle one here.
	set(frames[0].Addr(), 2, uint64(frames[3].Addr())|3)
	set(frames[3].Addr(), 5, uint64(frames[5].Addr())|3)
	set(root, 1, uint64(frames[6].Addr())|7) // in the user half
	tables := of(protected(t, im), "page table")
	for i, want := range []bool{true, true, false, true, false, true, false} {
		if got := tables.Has(frames[i]); got != want {
			t.Errorf("page %d is protected as a page table: %v; want %v", i, got, want)
		}
	}
}

// More tables than the guest can sanely have are an error, and what a
// debugger starts from is protected all the same.
func TestProtectedTooManyTables(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 123, Memory: 256 << 20, PlainKDBG: true})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	// A page directory of 512 entries for each table of a pointer table: 64 Ki
	// page tables in 64 Ki pages of RAM.
	const base = phys.VirtAddr(0xFFFF_8000_0000_0000)
	if _, ok := im.Translate(base); ok {
		t.Fatal("the lab has something there")
	}
	pfn := phys.PFN(0x200)
	for i := range 40 {
		dir, err := im.AllocPhys(1)
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for range 512 {
			b = binary.LittleEndian.AppendUint64(b, uint64(pfn.Addr())|3)
			pfn++
		}
		if err := im.WritePhys(dir[0].Addr(), b); err != nil {
			t.Fatal(err)
		}
		if err := im.MapPage(im.Truth.DirectoryTableBase, base+phys.VirtAddr(i)<<30, dir[0], 3, 3); err != nil {
			t.Fatal(err)
		}
		clearLarge(t, im, base+phys.VirtAddr(i)<<30)
	}
	set, err := s.Protected(t.Context())
	if !errors.Is(err, guest.ErrMalformed) {
		t.Fatalf("Protected = %v; want ErrMalformed", err)
	}
	checkDisjoint(t, im, set)
	// 4096, and one for each 64 pages of RAM.
	if got, want := of(set, "page table").Pages(), 4096+im.RAM().Pages()/64; got != want {
		t.Errorf("%d page tables; want %d", got, want)
	}
	if _, err := guest.Open(t.Context(), im, union(set), im.Truth.DirectoryTableBase, im.Truth.KDBG); err != nil {
		t.Errorf("Open of what is protected failed: %v", err)
	}
}

// clearLarge makes the 1 GiB page at va the table that it is.
func clearLarge(t *testing.T, im *ntlab.Image, va phys.VirtAddr) {
	t.Helper()
	at, ok := im.EntryAddr(va, 3)
	if !ok {
		t.Fatalf("no entry for %#x", uint64(va))
	}
	var b [8]byte
	if err := im.ReadPhys(t.Context(), b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] &^= 0x80
	if err := im.WritePhys(at, b[:]); err != nil {
		t.Fatal(err)
	}
}

func TestProtectedFails(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 124})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Protected(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("Protected, canceled = %v", err)
	}
	broken := errors.New("the connection is gone")
	for what, va := range map[string]phys.VirtAddr{
		"module list": im.Truth.PsLoadedModuleList, "context": im.Truth.Processors[0].Context, "KDBG": im.Truth.KDBG,
	} {
		pa, ok := im.Translate(va)
		if !ok {
			t.Fatalf("no %s", what)
		}
		s.Space = guest.NewAddressSpace(&failingAt{im, pa, broken}, im.RAM(), s.DirectoryTableBase.Value)
		set, err := s.Protected(t.Context())
		if !errors.Is(err, broken) || !union(set).Has(pa.PFN()) {
			t.Errorf("Protected, without the %s = %v; want the reader's error, and the page", what, err)
		}
	}
}
