package capture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/dump"
	"snap/dump/verify"
	"snap/exclude"
	"snap/guest"
	"snap/header"
	"snap/hv"
	"snap/hv/file"
	"snap/internal/ntlab"
	"snap/phys"
	"snap/store"
)

// variantHeader is what a header says of a guest whose layout varies.
type variantHeader struct {
	DirectoryTableBase                      phys.Addr
	Modules, Processes, KDBG, PFN           phys.VirtAddr
	Processors, Build, Product, Suite, Boot uint32
	Runs                                    []phys.Run
	SystemTime, UpTime                      uint64
}

func headerOf(h *header.Header) variantHeader {
	return variantHeader{
		h.DirectoryTableBase, h.PsLoadedModuleList, h.PsActiveProcessHead, h.KdDebuggerDataBlock, h.PfnDataBase,
		h.NumberProcessors, h.MinorVersion, h.ProductType, h.SuiteMask, h.BootID, h.Runs, h.SystemTime, h.SystemUpTime,
	}
}

func headerFrom(im *ntlab.Image) variantHeader {
	tr := &im.Truth
	return variantHeader{
		tr.DirectoryTableBase, tr.PsLoadedModuleList, tr.PsActiveProcessHead, tr.KDBG, tr.PfnDatabase,
		uint32(im.Config.CPUs), tr.Build, tr.ProductType, tr.SuiteMask, tr.BootID, tr.Runs, tr.SystemTime, tr.InterruptTime,
	}
}

// TestVariantHeaders: of guests whose page tables, kernel or machine are made in ways
// that Windows is seen in, the header says what is so. Dumps of some are taken: they
// are sound and have the guest's pages.
func TestVariantHeaders(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		ntlab.Config
		dumped bool
	}{
		"fixed self-map":               {Config: ntlab.Config{Profile: "ws2003sp1-x64"}},
		"5 levels":                     {ntlab.Config{LA57: true}, true},
		"5 levels, user CR3s":          {Config: ntlab.Config{LA57: true, KPTI: true, UserMode: true}},
		"5 levels, no stub, user CR3s": {ntlab.Config{LA57: true, KPTI: true, UserMode: true, NoLowStub: true, MonitorRegisters: true}, true},
		"5 levels, nested":             {ntlab.Config{LA57: true, Nested: true}, true},
		"nested":                       {ntlab.Config{Nested: true, NoLowStub: true}, true},
		"dummy self-map":               {Config: ntlab.Config{DummySelfMap: true, NoLowStub: true, Nested: true}},
		"kernel at 4 KiB":              {ntlab.Config{UnalignedKernel: true}, true},
		"tables above 64 MiB":          {Config: ntlab.Config{TablesAbove: 64 * mib, NoLowStub: true, Nested: true}},
		"65 processors":                {ntlab.Config{CPUs: 65, Memory: 128 * mib}, true},
		"288 processors":               {Config: ntlab.Config{CPUs: 288, Memory: 512 * mib}},
		"plugged memory":               {ntlab.Config{HotPlug: 64 * mib}, true},
		"memory that can't be read":    {Config: ntlab.Config{Unreadable: 4 * mib}},
		"1 TiB":                        {Config: ntlab.Config{Memory: 1 << 40}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.Seed = 800
			vm := newGuest(t, tt.Config)
			a, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(headerFrom(vm.im), headerOf(a.Header)); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
			if got := a.System.Space.Paging().Levels(); got == 5 != tt.LA57 {
				t.Errorf("the guest was read by %d levels", got)
			}
			if tt.dumped {
				checkVariant(t, vm.im, mustTake(t, vm, LookOptions{}))
			}
		})
	}
}

func checkVariant(t *testing.T, im *ntlab.Image, d *taken) {
	t.Helper()
	h, err := d.file.Header()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(headerFrom(im), headerOf(h)); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	d.comparePages(t, im, windowsPages(t, im))
}

// TestConvertFiveLevels goes the ways of files: an ELF core becomes a dump, and that
// becomes another.
func TestConvertFiveLevels(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 801, LA57: true})
	dir := t.TempDir()
	core, err := os.Create(filepath.Join(dir, "core"))
	if err == nil {
		err = errors.Join(vm.im.WriteELFCore(core), core.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	src, err := file.Open(t.Context(), core.Name(), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := Convert(t.Context(), src, hv.Identity{Name: "core"}, store.Folder(dir, store.Options{}), "a.dmp.zst", Options{Manifest: true}); err != nil {
		t.Fatal(err)
	}
	tables := protectedTables(t, vm.im)
	repackTo(t, filepath.Join(dir, "a.dmp.zst"), filepath.Join(dir, "b.dmp"), dump.CompressionNone)
	for _, name := range []string{"a.dmp.zst", "b.dmp"} {
		f := openDump(t, filepath.Join(dir, name))
		checkVariant(t, vm.im, &taken{file: f})
		rep, err := verify.Verify(t.Context(), f, verify.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for check, want := range map[string]string{
			verify.CheckDirectoryTable: "5-level paging",
			verify.CheckPageTables:     fmt.Sprintf("%d tables of the kernel", tables),
		} {
			i := slices.IndexFunc(rep.Checks, func(c verify.Check) bool { return c.Name == check })
			if !rep.OK || i < 0 || !strings.Contains(rep.Checks[i].Detail, want) {
				t.Errorf("%s: %+v; want %q of %s", name, rep.Checks, want, check)
			}
		}
	}
}

// protectedTables counts the page tables of a guest's kernel.
func protectedTables(t *testing.T, im *ntlab.Image) uint64 {
	t.Helper()
	a, err := Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sets, err := a.System.Protected(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(sets, func(s guest.ProtectedPages) bool { return s.Reason == guest.ProtectedPageTable })
	return sets[i].Pages.Pages()
}

// TestExcludeFiveLevels: virtual ranges are looked up by the guest's own paging.
func TestExcludeFiveLevels(t *testing.T) {
	t.Parallel()
	for _, la57 := range []bool{true, false} {
		vm := newGuest(t, ntlab.Config{Seed: 802, LA57: la57})
		pool, err := vm.im.AllocPages(4)
		if err != nil {
			t.Fatal(err)
		}
		if wide := pool < 0xFFFF_8000_0000_0000; wide != la57 {
			t.Fatalf("pool is at %#x", uint64(pool))
		}
		ask := func(va phys.VirtAddr, pages uint64) exclude.Request {
			return exclude.Request{By: "test", Reason: exclude.Operator, Flags: exclude.FlagVirtual, Address: uint64(va), Pages: pages}
		}
		d := mustTake(t, vm, LookOptions{Exclusion: Exclusion{Requests: []exclude.Request{ask(pool, 4)}}})
		var gone []phys.PFN
		for i := range phys.VirtAddr(4) {
			at, ok := vm.im.Translate(pool + i<<phys.PageShift)
			if !ok {
				t.Fatal("pool is not mapped")
			}
			gone = append(gone, at.PFN())
		}
		d.comparePages(t, vm.im, windowsPages(t, vm.im).Minus(pagesOfFrames(t, gone...)))

		// An address that only 5 levels have.
		p, err := exclude.NewPlan(t.Context(), exclude.Input{
			Requests: []exclude.Request{ask(0xFF00_0000_0000_0000, 1)}, RAM: vm.im.RAM(), Translator: d.res.Analysis.System.Space,
		})
		switch {
		case err != nil:
			t.Fatal(err)
		case la57 && (len(p.Entries) != 1 || p.Entries[0].NotPresent != 1):
			t.Errorf("5 levels: %+v; want a page that isn't present", p)
		case !la57 && (len(p.Refused) != 1 || p.Refused[0].Status != exclude.StatusInvalidAddress || !p.Refused[0].Moot):
			t.Errorf("4 levels: %+v; want a request that is moot", p)
		}
	}
}
