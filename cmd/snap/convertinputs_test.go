package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/dump"
	"snap/hv/file/filetest"
	"snap/internal/ntlab"
	"snap/manifest"
	"snap/phys"
)

// guestFiles makes files of one Windows guest in every form that snap reads.
type guestFiles struct {
	dir   string
	im    *ntlab.Image
	pages map[phys.PFN][]byte // all of RAM
	notes []byte              // of the ELF core
}

func newGuestFiles(t *testing.T) *guestFiles {
	t.Helper()
	im, err := ntlab.Build(ntlab.Config{Profile: "win10-22h2", Memory: 64 << 20, CPUs: 2, Seed: 10})
	if err != nil {
		t.Fatal(err)
	}
	g := &guestFiles{dir: t.TempDir(), im: im, pages: map[phys.PFN][]byte{}}
	for _, r := range im.RAM() {
		for p := r.Base; p < r.End(); p++ {
			b := make([]byte, phys.PageSize)
			if err := im.ReadPhys(t.Context(), b, p.Addr()); err != nil {
				t.Fatal(err)
			}
			g.pages[p] = b
		}
	}
	e, err := elf.Open(g.core(t))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, p := range e.Progs {
		if p.Type == elf.PT_NOTE {
			if g.notes, err = io.ReadAll(p.Open()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return g
}

// put writes a file and returns its path.
func (g *guestFiles) put(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(g.dir, "input")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (g *guestFiles) core(t *testing.T) string {
	t.Helper()
	return writeCore(t, filepath.Join(g.dir, "input"), g.im)
}

// packed compresses the file at path by the program of that name.
func packed(t *testing.T, path string, program ...string) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(path + "." + program[0])
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(t.Context(), program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v", program, err)
	}
	return out.Name()
}

// TestConvertEveryInput converts a Windows guest from each form in which its memory can
// be given, and holds the dump against the guest itself.
func TestConvertEveryInput(t *testing.T) {
	g := newGuestFiles(t)
	memory := filetest.Ranges(g.pages)
	kdump := func(store filetest.Store) []byte {
		return filetest.Kdump{Version: 6, Machine: "x86_64", Pages: g.pages, Notes: g.notes, Store: store}.Bytes()
	}
	flat := func(store filetest.Store, n int) []byte { return filetest.Flatten(kdump(store), n, false) }
	gzipped := func(path string) string { return packed(t, path, "gzip", "-1") }
	for _, tt := range []struct {
		name      string
		file      func() string
		registers bool // it has the processors' registers
		args      []string
	}{
		{"ELF core", func() string { return g.core(t) }, true, nil},
		{"ELF core in xz", func() string { return packed(t, g.core(t), "xz", "-0") }, true, nil},
		{"kdump with zlib", func() string { return g.put(t, kdump(filetest.StoreZlib)) }, true, nil},
		{"kdump with snappy", func() string { return g.put(t, kdump(filetest.StoreSnappy)) }, true, nil},
		{"kdump with LZO", func() string { return g.put(t, kdump(filetest.StoreLZO)) }, true, nil},
		{"kdump with zstd", func() string { return g.put(t, kdump(filetest.StoreZstd)) }, true, nil},
		{"kdump with zlib, flattened", func() string { return g.put(t, flat(filetest.StoreZlib, 16<<10)) }, true, nil},
		{"kdump with snappy, flattened", func() string { return g.put(t, flat(filetest.StoreSnappy, 4096)) }, true, nil},
		{"kdump with LZO, flattened", func() string { return g.put(t, flat(filetest.StoreLZO, 5000)) }, true, nil},
		{"kdump with zstd, flattened", func() string { return g.put(t, flat(filetest.StoreZstd, 1<<20)) }, true, nil},
		{"kdump with zlib, flattened, in gzip", func() string { return gzipped(g.put(t, flat(filetest.StoreZlib, 16<<10))) }, true, nil},
		{"LiME", func() string { return g.put(t, filetest.LiME(memory)) }, false, nil},
		{"LiME in zstd", func() string { return packed(t, g.put(t, filetest.LiME(memory)), "zstd", "-q", "-c") }, false, nil},
		{"AVML", func() string { return g.put(t, filetest.AVML(memory, 16<<20)) }, false, nil},
		{"raw", func() string { return g.raw(t) }, false, []string{"--raw"}},
		{"raw in gzip", func() string { return gzipped(g.raw(t)) }, false, []string{"--raw"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := converted(t, tt.file(), tt.args...)
			compareGuest(t, f, g.im)
			for i, p := range g.im.Truth.Processors {
				c := readVirt(t, f, g.im, p.Context, contextSize)
				rip, rsp := binary.LittleEndian.Uint64(c[contextRIP:]), binary.LittleEndian.Uint64(c[contextRSP:])
				if r := g.im.Registers()[p.VCPU]; tt.registers && (rip != r.RIP || rsp != r.RSP) {
					t.Errorf("processor %d: RIP, RSP = %#x, %#x; want vCPU %d's %#x, %#x", i, rip, rsp, p.VCPU, r.RIP, r.RSP)
				}
			}
		})
	}
}

func (g *guestFiles) raw(t *testing.T) string {
	t.Helper()
	path := filepath.Join(g.dir, "input")
	if err := writeDense(g.im, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConvertRawHoles converts raw images of guests with memory above the hole below
// 4 GiB, of which nobody says where it lies.
func TestConvertRawHoles(t *testing.T) {
	t.Parallel()
	for machine, memory := range map[string]uint64{"q35": 0xb0000000, "i440fx": 0xe0000000} {
		t.Run(machine, func(t *testing.T) {
			im, err := ntlab.Build(ntlab.Config{Profile: "win10-22h2", Machine: machine, Memory: memory, CPUs: 2, Seed: 11})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "input")
			if err := writeDense(im, path); err != nil {
				t.Fatal(err)
			}
			compareGuest(t, converted(t, path, "--raw"), im)
		})
	}
}

// converted is the dump that snap convert makes of a file, with exit code 0.
func converted(t *testing.T, path string, args ...string) *dump.File {
	t.Helper()
	return convertedWith(t, path, exitOK, args...)
}

// convertedWith is converted with another exit code.
func convertedWith(t *testing.T, path string, code int, args ...string) *dump.File {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.dmp.zst")
	runOnLab(t, []int{code}, slices.Concat([]string{"convert", path, "-q", "-o", out}, args)...)
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); err != nil || len(left) != 2 {
		t.Errorf("beside the dump there is %q, %v; want its manifest", left, err)
	}
	f, err := dump.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// compareGuest holds a dump against the guest that it was made of: the pages that
// Windows has, where they belong, and the header's way into them.
func compareGuest(t *testing.T, f *dump.File, im *ntlab.Image) {
	t.Helper()
	const directoryTableBase = 0x10 // in the header (QEMU's win_dump_defs.h)
	if got := phys.Addr(binary.LittleEndian.Uint64(f.RawHeader()[directoryTableBase:])); got != im.Truth.DirectoryTableBase {
		t.Errorf("the header's DirectoryTableBase is %#x; want %#x", uint64(got), uint64(im.Truth.DirectoryTableBase))
	}
	if diff := cmp.Diff(im.Truth.Runs, []phys.Run(f.RAM())); diff != "" {
		t.Fatalf("pages of the dump (-want +got):\n%s", diff)
	}
	if got := readVirt(t, f, im, im.Truth.KDBG, len(im.Truth.KDBGPlain)); !bytes.Equal(got, im.Truth.KDBGPlain) {
		t.Error("the KDBG in the dump is not the plain one")
	}
	masks := overlaid(t, im)
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, r := range im.Truth.Runs {
		for base := r.Base; base < r.End(); base += phys.PFN(len(want) >> phys.PageShift) {
			n := min(uint64(len(want)), uint64((r.End() - base).Addr()))
			if err := errors.Join(f.ReadPhys(t.Context(), got[:n], base.Addr()), im.ReadPhys(t.Context(), want[:n], base.Addr())); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(got[:n], want[:n]) {
				continue
			}
			for off := 0; off < int(n); off += phys.PageSize {
				at := base.Addr() + phys.Addr(off)
				a, b := got[off:off+phys.PageSize], want[off:off+phys.PageSize]
				hide(masks, at, a)
				hide(masks, at, b)
				if !bytes.Equal(a, b) {
					t.Fatalf("page %#x differs from the guest's outside of the overlays", uint64(at.PFN()))
				}
			}
		}
	}
}

// TestConvertFilteredKdump: pages that were left out of a core are not pages of zeros of
// the dump but none of it, and it is said how many they are and that they are lost, which
// makes the dump less than it should be. Where only pages of zeros were left out, it is
// the whole guest's.
func TestConvertFilteredKdump(t *testing.T) {
	g := newGuestFiles(t)
	var left []phys.PFN
	for _, r := range g.im.Free() {
		for p := r.Base; p < r.End() && len(left) < 100; p++ {
			left = append(left, p)
			delete(g.pages, p)
		}
	}
	const free = 16 // the dump level of free pages (makedumpfile(8))
	k := filetest.Kdump{Version: 6, Machine: "x86_64", Pages: g.pages, Left: left, Level: free, Notes: g.notes, Store: filetest.StoreSnappy}
	path := g.put(t, k.Bytes())
	f := convertedWith(t, path, exitDegraded)
	for _, p := range left {
		if f.RAM().Covers(p.Addr(), phys.PageSize) {
			t.Fatalf("page %#x, which was left out of the core, is in the dump", uint64(p))
		}
	}
	m, err := manifest.Decode(f.Metadata())
	if err != nil {
		t.Fatal(err)
	}
	const want = "100 pages that the guest had are not in the core: whoever wrote it left out kinds of pages (dump level 16); what was in them is lost"
	if !slices.Contains(m.Warnings, want) || m.Pages.Lost != 100 {
		t.Errorf("warnings of the account: %q, and %d pages lost; want %q", m.Warnings, m.Pages.Lost, want)
	}
	k.Level = 1 // of pages of zeros
	f = convertedWith(t, g.put(t, k.Bytes()), exitOK)
	for _, p := range left {
		page := bytes.Repeat([]byte{0xA5}, phys.PageSize)
		if err := f.ReadPhys(t.Context(), page, p.Addr()); err != nil || len(bytes.Trim(page, "\x00")) > 0 {
			t.Fatalf("page %#x, which was left out of the core as it held zeros, isn't zeros in the dump (%v)", uint64(p), err)
		}
	}
}
