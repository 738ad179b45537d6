package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"snap/internal/ntlab"
	"snap/manifest"
	"snap/phys"
)

const (
	terabyte = 1 << 40
	// mostMemory is what no command may take of a guest of any size.
	mostMemory = 256 << 20
)

// terabyteImage writes the memory of a guest of 1 TiB to a raw image that is a hole
// but for the guest's own pages and one in each 2 GiB. It returns the image's guest and
// those pages.
func terabyteImage(t *testing.T, path string) (*ntlab.Image, []phys.PFN) {
	t.Helper()
	im, err := ntlab.Build(ntlab.Config{Memory: terabyte, Seed: 11})
	if err != nil {
		t.Fatal(err)
	}
	const step = 2 << 30 >> phys.PageShift
	used, windows := im.Populated(), phys.Runs(im.Truth.Runs)
	r := rand.New(rand.NewPCG(1, 2))
	page := make([]byte, phys.PageSize)
	var scattered []phys.PFN
	for base := phys.PFN(0); base < im.RAM().End(); base += step {
		p := base + phys.PFN(r.Uint64N(step))
		if used.Has(p) || !windows.Has(p) {
			continue
		}
		for i := range page {
			page[i] = byte(r.Uint32())
		}
		if err := im.WritePhys(p.Addr(), page); err != nil {
			t.Fatal(err)
		}
		scattered = append(scattered, p)
	}
	if len(scattered) < 500 {
		t.Fatalf("%d pages are scattered over 1 TiB; want 500", len(scattered))
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(im.RAM().End().Addr())); errors.Is(err, unix.EFBIG) && testing.Short() {
		t.Skip("the file system has no files of 1 TiB")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, r := range im.Populated() {
		b := make([]byte, r.Size())
		if err := im.ReadPhys(t.Context(), b, r.Base.Addr()); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, int64(r.Base.Addr())); err != nil {
			t.Fatal(err)
		}
	}
	return im, scattered
}

// bounded runs snap as a process of its own, and fails the test if it takes more memory
// than it may. It returns what the process printed on standard output.
func bounded(t *testing.T, args ...string) []byte {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	peak := filepath.Join(t.TempDir(), "peak")
	cmd := exec.CommandContext(t.Context(), self, append([]string{peak, bin}, args...)...)
	cmd.Args[0] = measuredName
	// As on a host with more processors than where this runs.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=8")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("snap %s: %v\n%s", args[0], err, stderr.String())
	}
	b, err := os.ReadFile(peak)
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("snap %s: %d MiB", args[0], most>>20)
	if most > mostMemory {
		t.Errorf("snap %q took %d MiB of memory; want at most %d", args, most>>20, mostMemory>>20)
	}
	return stdout.Bytes()
}

// measuredName is the name by which the tests' program runs measured.
const measuredName = "measured"

// measured runs a program with its arguments, and writes the most bytes of memory that
// it had to the file that is named first. It is a process of its own because what a new
// one had is counted from before its program is executed (begin_new_exec in Linux
// fs/exec.c): until then it has that of its parent, and the tests have much.
func measured() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if err == nil {
		most := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
		err = os.WriteFile(os.Args[1], strconv.AppendInt(nil, most, 10), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestTerabyte: a guest of 1 TiB of which little is populated is dumped, inspected,
// verified and expanded, each within 256 MiB of memory and in seconds, and what comes
// out in the end has the guest's pages where they belong, and no more room than they
// need.
func TestTerabyte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, zst, plain := filepath.Join(dir, "big.raw"), filepath.Join(dir, "big.dmp.zst"), filepath.Join(dir, "big.dmp")
	im, scattered := terabyteImage(t, raw)
	bounded(t, "convert", "--raw", "--ram", "0+2GiB", "--ram", "4GiB+1022GiB@4GiB", raw, "-o", zst)
	var info dumpInfo
	if err := json.Unmarshal(bounded(t, "info", "--json", zst), &info); err != nil {
		t.Fatal(err)
	}
	want := uint64(0x2000)
	var runs []runInfo
	for _, r := range im.Truth.Runs {
		want += r.Size()
		runs = append(runs, runInfo{manifest.Hex(r.Base), r.Pages})
	}
	if info.Size != want || len(info.Runs) != len(runs) || len(info.Modules) != len(im.Truth.Modules) || len(info.Processes) != len(im.Truth.Processes) {
		t.Errorf("info says %d bytes, %d runs, %d modules, %d processes; want %d, %d, %d, %d", info.Size, len(info.Runs),
			len(info.Modules), len(info.Processes), want, len(runs), len(im.Truth.Modules), len(im.Truth.Processes))
	}
	bounded(t, "verify", zst)
	bounded(t, "expand", zst, "-o", plain)
	holdsPages(t, im, plain, int64(want), scattered)
	bounded(t, "verify", plain)
	again := filepath.Join(dir, "again.dmp.zst")
	bounded(t, "convert", plain, "-o", again)
	bounded(t, "verify", again)
}

// holdsPages fails unless the plain dump has those pages of the guest, zeros behind each
// of them, and not much more room than they take.
func holdsPages(t *testing.T, im *ntlab.Image, path string, size int64, pages []phys.PFN) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	// The smallest hole is of 64 KiB.
	if most := int64(im.Populated().Pages()+100) * 64 << 10; st.Size != size || st.Blocks*512 > most {
		t.Errorf("the plain dump has %d bytes, and takes %d MiB; want %d, at most %d MiB", st.Size, st.Blocks*512>>20, size, most>>20)
	}
	got, want := make([]byte, phys.PageSize), make([]byte, phys.PageSize)
	for _, p := range pages {
		for _, p := range []phys.PFN{p, p + 1} {
			at, ok := offsetIn(im.Truth.Runs, p)
			if !ok {
				continue
			}
			if _, err := f.ReadAt(got, at); err != nil {
				t.Fatalf("read page %#x: %v", uint64(p), err)
			}
			if err := im.ReadPhys(t.Context(), want, p.Addr()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("page %#x of the plain dump, at %#x, is not the guest's", uint64(p), at)
			}
		}
	}
}

// offsetIn returns where in a full dump of these runs a page is.
func offsetIn(runs []phys.Run, p phys.PFN) (int64, bool) {
	at := int64(0x2000)
	for _, r := range runs {
		if p >= r.Base && p < r.End() {
			return at + int64(p-r.Base)*phys.PageSize, true
		}
		at += int64(r.Size())
	}
	return 0, false
}
