package procmem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/hvtest"
	"snap/phys"
)

func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&b[0]))) }

func fine() error { return nil }

// layout puts an area in two pieces into guest memory, with a hole between them
// and in the order opposite to the host's.
func layout(hva uint64) []Range {
	const half = areaPages / 2
	return []Range{
		{phys.Run{Base: 0x1000, Pages: half}, hva},
		{phys.Run{Base: 0x10, Pages: half}, hva + half*phys.PageSize},
	}
}

// areaWant is what the child's area must hold, as guest memory.
type areaWant struct {
	kind   int
	ranges []Range
	hva    uint64
}

// ReadPhys implements phys.Reader.
func (w areaWant) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for len(p) > 0 {
		i := slices.IndexFunc(w.ranges, func(r Range) bool { return at.PFN() >= r.Run.Base && at.PFN() < r.Run.End() })
		if i < 0 {
			return phys.ErrNotRAM
		}
		r := w.ranges[i]
		off := r.HVA + uint64(at-r.Run.Base.Addr()) - w.hva
		n := copy(p, wantPage(w.kind, int(off>>phys.PageShift))[off%phys.PageSize:])
		p, at = p[n:], at+phys.Addr(n)
	}
	return nil
}

var kindNames = [kinds]string{"anonymous", "memfd", "shared anonymous", "private file", "private memfd"}

func TestMemory(t *testing.T) {
	c := startChild(t)
	for kind, name := range kindNames {
		t.Run(name, func(t *testing.T) {
			ranges := layout(c.hvas[kind])
			open := func(t *testing.T) hv.Memory {
				m, err := Open(c.cmd.Process.Pid, ranges, fine)
				if err != nil {
					t.Fatalf("Open failed: %v", err)
				}
				return m
			}
			hvtest.TestMemory(t, open, hvtest.Options{Want: areaWant{kind, ranges, c.hvas[kind]}})
			m := open(t)
			defer m.Close()
			set, known, err := m.Populated(t.Context())
			if err != nil || !known {
				t.Fatalf("Populated() = %v, %v; want it known", known, err)
			}
			// Exactly what was written, or is in the file.
			var want []phys.Run
			for _, r := range ranges {
				for i := range r.Run.Pages {
					page := int((r.HVA-c.hvas[kind])>>phys.PageShift + i)
					if written(kind, page) || (private(kind) && inFile(page)) {
						want = append(want, phys.Run{Base: r.Run.Base + phys.PFN(i), Pages: 1})
					}
				}
			}
			wantSet, err := phys.NewRuns(want...)
			if err != nil {
				t.Fatal(err)
			}
			if missing := wantSet.Minus(set); len(missing) != 0 {
				t.Errorf("Populated() lacks %v", missing)
			}
			if kind == kindAnonymous || kind == kindMemfd {
				if diff := cmp.Diff(wantSet, set); diff != "" {
					t.Errorf("Populated() after reading all (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestReadsAllocateNothing: reading the holes of shared memory must not fill them,
// which would last until the guest ends.
func TestReadsAllocateNothing(t *testing.T) {
	c := startChild(t)
	m, err := Open(c.cmd.Process.Pid, layout(c.hvas[kindMemfd]), fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(m.pieces[0].file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	before := blocks()
	if before == 0 {
		t.Fatal("the child's file has no blocks")
	}
	for _, r := range m.RAM() {
		if err := m.ReadPhys(t.Context(), make([]byte, r.Size()), r.Base.Addr()); err != nil {
			t.Fatalf("ReadPhys(%v) failed: %v", r, err)
		}
	}
	if after := blocks(); after != before {
		t.Errorf("the file has %d blocks after reading; want %d", after, before)
	}
}

// TestReadsMapNothing: reading memory that a process never touched gives it no pages of
// zeros, whose page tables it would have until it ends.
func TestReadsMapNothing(t *testing.T) {
	c := startChild(t)
	hva, err := strconv.ParseUint(c.ask(t, "vast"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: vastPages}, hva}}, fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	tables := func() uint64 { return statusKiB(t, c.cmd.Process.Pid, "VmPTE") }
	before := tables()
	b := make([]byte, 1<<20)
	for asked := range 2 { // before and after it is known what is populated
		for at := phys.Addr(0); at < vastPages*phys.PageSize; at += phys.Addr(len(b)) {
			b[0], b[1] = 0xff, 0xff
			if err := m.ReadPhys(t.Context(), b, at); err != nil {
				t.Fatalf("ReadPhys(%#x) failed: %v", at, err)
			}
			if want := at == 0; (b[0] == 1) != want || b[1] != 0 {
				t.Fatalf("ReadPhys(%#x) gave %#x, %#x; want only the first byte of all to be 1", at, b[0], b[1])
			}
		}
		set, known, err := m.Populated(t.Context())
		if want := (phys.Runs{{Base: 0, Pages: 1}}); err != nil || !known || !slices.Equal(set, want) {
			t.Errorf("Populated() = %v, %v, %v; want %v", set, known, err, want)
		}
		// 512 KiB for all of it; what the child itself did is less.
		if after := tables(); after >= before+128 {
			t.Errorf("reading %d: %d KiB of page tables became %d", asked, before, after)
		}
	}
}

// statusKiB returns a value of /proc/PID/status.
func statusKiB(t *testing.T, pid int, name string) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s of process %d", name, pid)
	return 0
}

// lacking ends a test that this host can't show anything by: as a skip in the quick tests,
// and as a failure in all of them, where nothing may go unseen.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if testing.Short() {
		t.Skipf(format, args...)
	}
	t.Fatalf(format, args...)
}

// TestPrivateZeroPage: a page of zeros that a process has in place of one of a file's
// is zeros, and what was read with it is in its place.
func TestPrivateZeroPage(t *testing.T) {
	c := startChild(t)
	m, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: areaPages}, c.hvas[kindPrivateMemfd]}}, fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	if answer := c.ask(t, "zero over data"); answer != "done" {
		lacking(t, "no page of zeros in place of a file's: %s", answer)
	}
	var want []byte
	for i := zeroedPage - 1; i <= zeroedPage+1; i++ {
		p := wantPage(kindPrivateMemfd, i)
		if i == zeroedPage {
			if bytes.Equal(p, make([]byte, phys.PageSize)) {
				t.Fatal("the page is zeros in the file already")
			}
			clear(p)
		}
		want = append(want, p...)
	}
	got := make([]byte, len(want))
	if err := m.ReadPhys(t.Context(), got, (zeroedPage-1)*phys.PageSize); err != nil {
		t.Fatalf("ReadPhys failed: %v", err)
	}
	for i := range 3 {
		if part := got[i*phys.PageSize:][:phys.PageSize]; !bytes.Equal(part, want[i*phys.PageSize:][:phys.PageSize]) {
			t.Errorf("page %d begins with %x; want %x", zeroedPage-1+i, part[:8], want[i*phys.PageSize:][:8])
		}
	}
}

// TestEmptied: pages that a process gave back hold nothing.
func TestEmptied(t *testing.T) {
	c := startChild(t)
	m, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: areaPages}, c.hvas[kindAnonymous]}}, fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	before, _, err := m.Populated(t.Context())
	if err != nil {
		t.Fatalf("Populated failed: %v", err)
	}
	c.tell(t, "empty")
	after, known, err := m.Populated(t.Context())
	if err != nil || !known {
		t.Fatalf("Populated() = %v, %v; want it known", known, err)
	}
	want := before.Minus(phys.Runs{{Base: 300, Pages: 100}})
	if diff := cmp.Diff(want, after); diff != "" || len(want) == 0 {
		t.Errorf("Populated() after pages were given back (-want +got):\n%s", diff)
	}
}

// TestEmptyHugeFile: hugetlbfs says of whole files that they are data. One in which
// nothing is isn't read.
func TestEmptyHugeFile(t *testing.T) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB)
	if err != nil {
		lacking(t, "no hugetlbfs: %v", err)
	}
	huge := os.NewFile(uintptr(fd), "huge")
	defer huge.Close()
	if err := huge.Truncate(4 << 20); err != nil {
		t.Fatal(err)
	}
	p := piece{run: phys.Run{Base: 0, Pages: 1024}, file: huge}
	err = p.eachData(t.Context(), func(lo, hi int64) {
		t.Errorf("a file of hugetlbfs that holds nothing has data from %#x to %#x", lo, hi)
	})
	if err != nil {
		t.Errorf("eachData() failed: %v", err)
	}
}

// TestFault: a page that can't be read is an error for that page.
func TestFault(t *testing.T) {
	c := startChild(t)
	hva := c.hvas[kindAnonymous]
	m, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: areaPages}, hva}}, fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	c.tell(t, "unmap")
	err = m.ReadPhys(t.Context(), make([]byte, 64<<10), 4096)
	var access *phys.AccessError
	if !errors.As(err, &access) || access.At != 14*phys.PageSize || !errors.Is(err, unix.EFAULT) {
		t.Errorf("ReadPhys over a page that can't be read = %v; want EFAULT at %#x", err, 14*phys.PageSize)
	}
	if err := m.ReadPhys(t.Context(), make([]byte, 64<<10), 15*phys.PageSize); err != nil {
		t.Errorf("ReadPhys after that page failed: %v", err)
	}
	if _, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: areaPages}, hva}}, fine); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("Open of a range that isn't one mapping = %v; want %v", err, hv.ErrUnsupported)
	}
}

// TestProcessEnds: nothing is read of a process that is gone, nor of another that
// has its number.
func TestProcessEnds(t *testing.T) {
	c := startChild(t)
	for _, kind := range []int{kindAnonymous, kindMemfd} {
		m, err := Open(c.cmd.Process.Pid, layout(c.hvas[kind]), fine)
		if err != nil {
			t.Fatalf("Open failed: %v", err)
		}
		defer m.Close()
		defer func() {
			if err := m.ReadPhys(t.Context(), make([]byte, 8), 0x10000); err == nil {
				t.Errorf("ReadPhys of %s memory after the process's end succeeded", kindNames[kind])
			}
			if _, _, err := m.Populated(t.Context()); err == nil {
				t.Errorf("Populated of %s memory after the process's end succeeded", kindNames[kind])
			}
		}()
	}
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatalf("child: %v", err)
	}
	if _, err := Open(c.cmd.Process.Pid, layout(c.hvas[kindAnonymous]), fine); err == nil {
		t.Error("Open of a process that is gone succeeded")
	}
}

// TestDenied: another user's process can't be read, and the error says what would help.
func TestDenied(t *testing.T) {
	c := startChild(t)
	// This very program again, as a user who may read nothing of ours. The link
	// leads to it even where that user can't reach its folder.
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = "/"
	cmd.Env = []string{fmt.Sprintf("%s=%d:%d", strangerEnv, c.cmd.Process.Pid, c.hvas[kindAnonymous])}
	target := c.cmd.Process.Pid
	if os.Geteuid() == 0 {
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	} else {
		target = 1 // root's
		cmd.Env = []string{fmt.Sprintf("%s=%d:%d", strangerEnv, target, c.hvas[kindAnonymous])}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the stranger to process %d failed: %v\n%s", target, err, out)
	}
	if got := string(out); !strings.HasPrefix(got, "denied=true ") || !strings.Contains(got, "CAP_SYS_PTRACE") {
		t.Errorf("Open by a stranger: %s; want %v and what would help", got, hv.ErrDenied)
	}
}

func TestOpenRefuses(t *testing.T) {
	c := startChild(t)
	pid, hva := c.cmd.Process.Pid, c.hvas[kindAnonymous]
	broken := errors.New("another process")
	if _, err := Open(pid, layout(hva), func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Open of a process that fails to verify = %v; want %v", err, broken)
	}
	tests := []struct {
		name   string
		ranges []Range
		say    string
	}{
		{"nothing", nil, "no guest memory"},
		{"no mapping", []Range{{phys.Run{Base: 0, Pages: 1}, 0x1000}}, "no mapping"},
		{"past the mapping", []Range{{phys.Run{Base: 0, Pages: 1 << 30}, c.hvas[kindMemfd]}}, "ends before"},
		{"wrapping", []Range{{phys.Run{Base: 0, Pages: 1 << 38}, ^uint64(0) &^ 4095}}, "wraps"},
		{"overlap", []Range{{phys.Run{Base: 0, Pages: 2}, hva}, {phys.Run{Base: 1, Pages: 2}, hva}}, "overlap"},
	}
	for _, tt := range tests {
		if _, err := Open(pid, tt.ranges, fine); err == nil || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("Open with %s = %v; want it to say %q", tt.name, err, tt.say)
		}
	}
}

// TestPageTable: the quick way and the old one see the same, but for the page of
// zeros, which only the quick one knows.
func TestPageTable(t *testing.T) {
	c := startChild(t)
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", c.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hva := c.hvas[kindAnonymous]
	r := hostRange{hva, hva + areaPages*phys.PageSize}
	var quick, slow, again []part
	mapped, err := eachPart(t.Context(), f, r, func(p part) { quick = append(quick, p) })
	if err != nil {
		t.Fatalf("eachPart failed: %v", err)
	}
	if err := entries(t.Context(), f, r, func(p part) { slow = append(slow, p) }); err != nil {
		t.Fatalf("entries failed: %v", err)
	}
	unexported := cmp.AllowUnexported(part{}, hostRange{})
	if diff := cmp.Diff(slow, quick, unexported); diff != "" {
		t.Errorf("page table (-entry by entry +scanned):\n%s", diff)
	}
	if !mapped {
		lacking(t, "the kernel can't scan page tables")
	}
	c.tell(t, "zero")
	if err := scan(t.Context(), f, r, func(p part) { again = append(again, p) }); err != nil {
		t.Fatalf("scan failed: %v", err)
	}
	zero := hostRange{hva + 8*phys.PageSize, hva + 9*phys.PageSize}
	for _, p := range again {
		if (p.kind == zeros) != (p.hostRange == zero) {
			t.Errorf("scan after a read of page 8, which was never written, has %+v; want only %+v to be zeros", p, zero)
		}
	}
	// Without it all is as before.
	var rest []part
	join := joiner{use: func(p part) { rest = append(rest, p) }}
	for _, p := range again {
		if p.kind == zeros {
			p.kind = absent
		}
		join.add(p)
	}
	join.end()
	if diff := cmp.Diff(quick, rest, unexported); diff != "" {
		t.Errorf("scan after a read of an untouched page (-want +got):\n%s", diff)
	}
}

// TestUnmapped: memory that a process doesn't have any more is none that it never
// touched.
func TestUnmapped(t *testing.T) {
	c := startChild(t)
	m, err := Open(c.cmd.Process.Pid, []Range{{phys.Run{Base: 0, Pages: areaPages}, c.hvas[kindAnonymous]}}, fine)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer m.Close()
	if answer := c.ask(t, "take away"); answer != "done" {
		t.Fatal(answer)
	}
	b := make([]byte, 8*phys.PageSize)
	err = m.ReadPhys(t.Context(), b, (goneFrom-4)*phys.PageSize)
	if access, ok := errors.AsType[*phys.AccessError](err); !ok || access.At != goneFrom*phys.PageSize || !errors.Is(err, unix.EFAULT) {
		t.Errorf("ReadPhys over memory that is gone = %v; want EFAULT at %#x", err, goneFrom*phys.PageSize)
	}
	mapped, err := eachPart(t.Context(), m.pagemap, hostRange{m.pieces[0].hva, m.pieces[0].hva + phys.PageSize}, func(part) {})
	if err != nil {
		t.Fatal(err)
	}
	if set, _, err := m.Populated(t.Context()); mapped && !errors.Is(err, unix.EFAULT) {
		t.Errorf("Populated() = %d pages, %v of memory of which a part is gone; want %v", set.Pages(), err, unix.EFAULT)
	}
}

func TestParseMapping(t *testing.T) {
	tests := []struct {
		line string
		want mapping
	}{
		{
			"7f1c2be00000-7f1c3be00000 rw-p 00000000 00:00 0 ",
			mapping{0x7f1c2be00000, 0x7f1c3be00000, 0x7f1c3be00000, "rw-p", 0, "00:00", 0, ""},
		},
		{
			"7f1c2be00000-7f1c3be00000 rw-s 00400000 00:01 1036                       /memfd:pc.ram (deleted)",
			mapping{0x7f1c2be00000, 0x7f1c3be00000, 0x7f1c3be00000, "rw-s", 0x400000, "00:01", 1036, "/memfd:pc.ram (deleted)"},
		},
	}
	for _, tt := range tests {
		got, err := parseMapping(tt.line)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(mapping{})); err != nil || diff != "" {
			t.Errorf("parseMapping(%q) failed with %v or differs (-want +got):\n%s", tt.line, err, diff)
		}
	}
	for _, line := range []string{"", "x", "1-2 rw-p", "1-g rw-p 0 00:00 0", "1-2 rw-p 0 00:00 x"} {
		if m, err := parseMapping(line); err == nil {
			t.Errorf("parseMapping(%q) = %+v; want an error", line, m)
		}
	}
}
