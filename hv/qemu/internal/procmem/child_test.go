package procmem

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/phys"
)

// childEnv makes the test binary play the process that runs a guest.
const childEnv = "SNAP_TEST_PROCMEM_CHILD"

// strangerEnv makes it try to open a process, "PID:ADDRESS", and say how that went.
const strangerEnv = "SNAP_TEST_PROCMEM_STRANGER"

func stranger(target string) {
	var pid int
	var hva uint64
	if _, err := fmt.Sscanf(target, "%d:%d", &pid, &hva); err != nil {
		fmt.Print(err)
		return
	}
	_, err := Open(pid, layout(hva), fine)
	fmt.Printf("denied=%v %v", errors.Is(err, hv.ErrDenied), err)
}

func TestMain(m *testing.M) {
	if target := os.Getenv(strangerEnv); target != "" {
		stranger(target)
		os.Exit(0)
	}
	if dir := os.Getenv(childEnv); dir != "" {
		if err := childMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The child's memory: areaPages of each kind, of which some are written.
const areaPages = 1024

// kinds of memory that a guest's RAM can be.
const (
	kindAnonymous = iota
	kindMemfd
	kindSharedAnonymous
	kindPrivateFile
	kindPrivateMemfd
	kinds
)

// private reports whether what a kind's pages hold is in a file unless they are written.
func private(kind int) bool { return kind == kindPrivateFile || kind == kindPrivateMemfd }

// written reports whether the child writes page i of an area.
func written(kind, i int) bool { return i%7 == kind%7 || (i > 300 && i < 400) }

// inFile reports whether page i of a private file's area is in the file.
func inFile(i int) bool { return i%5 == 0 }

// pattern fills a page with what the child has there.
func pattern(p []byte, kind, i, salt int) {
	for off := 0; off < len(p); off += 8 {
		binary.LittleEndian.PutUint64(p[off:], uint64(salt)<<56|uint64(kind)<<48|uint64(i)<<16|uint64(off)|1)
	}
}

// wantPage returns page i of an area.
func wantPage(kind, i int) []byte {
	p := make([]byte, phys.PageSize)
	switch {
	case written(kind, i):
		pattern(p, kind, i, 1)
	case private(kind) && inFile(i):
		pattern(p, kind, i, 2)
	}
	return p
}

func childMain(dir string) error {
	areas := make([][]byte, kinds)
	for kind := range areas {
		b, err := childMap(kind, dir)
		if err != nil {
			return err
		}
		for i := range areaPages {
			if written(kind, i) {
				pattern(b[i*phys.PageSize:][:phys.PageSize], kind, i, 1)
			}
		}
		areas[kind] = b
		fmt.Println(addressOf(b))
	}
	in := bufio.NewReader(os.Stdin)
	for {
		cmd, err := in.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch cmd {
		case "unmap\n": // page 14 of the anonymous area, which is written
			p := areas[kindAnonymous][14*phys.PageSize:][:phys.PageSize]
			if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
				return err
			}
		case "zero\n": // read a page that was never written: the page of zeros
			if areas[kindAnonymous][8*phys.PageSize] != 0 {
				return fmt.Errorf("page 8 isn't zero")
			}
		case "zero over data\n":
			if err := zeroPage(areas[kindPrivateMemfd][zeroedPage*phys.PageSize:][:phys.PageSize]); err != nil {
				fmt.Println(err)
				continue
			}
		case "vast\n": // memory that is never touched
			b, err := unix.Mmap(-1, 0, vastPages*phys.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err == nil {
				err = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // of which one page table maps 512
			}
			if err != nil {
				return err
			}
			b[0] = 1
			fmt.Println(addressOf(b))
			continue
		case "take away\n": // as an unplugged DIMM
			p := areas[kindAnonymous][goneFrom*phys.PageSize:]
			if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(addressOf(p)), uintptr(len(p)), 0); errno != 0 {
				return errno
			}
		case "empty\n": // as a balloon does
			p := areas[kindAnonymous][300*phys.PageSize:][:100*phys.PageSize]
			if err := unix.Madvise(p, unix.MADV_DONTNEED); err != nil {
				return err
			}
		}
		fmt.Println("done")
	}
}

func childMap(kind int, dir string) ([]byte, error) {
	const size = areaPages * phys.PageSize
	rw := unix.PROT_READ | unix.PROT_WRITE
	switch kind {
	case kindAnonymous:
		b, err := unix.Mmap(-1, 0, size, rw, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err == nil {
			err = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // else one write fills 512 pages
		}
		return b, err
	case kindSharedAnonymous:
		return unix.Mmap(-1, 0, size, rw, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	case kindMemfd:
		fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		// The guest's RAM begins within the file, as with several backends in one.
		if err := unix.Ftruncate(fd, 2*size); err != nil {
			return nil, err
		}
		return unix.Mmap(fd, size/2, size, rw, unix.MAP_SHARED)
	}
	f, err := childFile(kind, dir)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	p := make([]byte, phys.PageSize)
	for i := range areaPages {
		if inFile(i) {
			pattern(p, kind, i, 2)
			if _, err := f.WriteAt(p, int64(i)*phys.PageSize); err != nil {
				return nil, err
			}
		}
	}
	return unix.Mmap(int(f.Fd()), 0, size, rw, unix.MAP_PRIVATE)
}

func childFile(kind int, dir string) (*os.File, error) {
	if kind == kindPrivateFile {
		return os.Create(dir + "/ram")
	}
	fd, err := unix.MemfdCreate("ram", unix.MFD_CLOEXEC)
	return os.NewFile(uintptr(fd), "ram"), err
}

// goneFrom is the page from which on the child can be told to unmap its memory.
const goneFrom = 512

// vastPages is how much memory the child can be told to have and not to touch.
const vastPages = 256 << 20 >> phys.PageShift

// zeroedPage is in the private memfd, and the child can be told to have the kernel's
// page of zeros in its place.
const zeroedPage = 15

// Requests of userfaultfd(2) (include/uapi/linux/userfaultfd.h).
const (
	uffdAPI          = 0xc018aa3f
	uffdRegister     = 0xc020aa00
	uffdZeroPage     = 0xc020aa04
	uffdVersion      = 0xaa
	uffdMissing      = 1 // UFFDIO_REGISTER_MODE_MISSING
	uffdUserModeOnly = 1
)

// zeroPage puts the kernel's page of zeros where p is, which was never touched. It is
// how KSM does it where a page has come to hold zeros (/sys/kernel/mm/ksm/use_zero_pages).
func zeroPage(p []byte) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	defer unix.Close(int(fd))
	for _, r := range []struct {
		request uintptr
		arg     [4]uint64
	}{
		{uffdAPI, [4]uint64{uffdVersion}},
		{uffdRegister, [4]uint64{addressOf(p), uint64(len(p)), uffdMissing}},
		{uffdZeroPage, [4]uint64{addressOf(p), uint64(len(p))}},
	} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, r.request, uintptr(unsafe.Pointer(&r.arg))); errno != 0 {
			return fmt.Errorf("userfaultfd request %#x: %w", r.request, errno)
		}
	}
	return nil
}

// child is a running one.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	hvas [kinds]uint64
}

func startChild(t *testing.T) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+t.TempDir())
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.in.Close() // ends it
		_ = c.cmd.Wait() // a test may have ended it already
	})
	for i := range c.hvas {
		if _, err := fmt.Fscanln(c.out, &c.hvas[i]); err != nil {
			t.Fatalf("start the child: %v", err)
		}
	}
	return c
}

// tell has the child do something.
func (c *child) tell(t *testing.T, what string) {
	t.Helper()
	if answer := c.ask(t, what); answer != "done" {
		t.Fatalf("child answered %q to %q", answer, what)
	}
}

// ask has the child do something and returns its answer: done, or why not.
func (c *child) ask(t *testing.T, what string) string {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, what); err != nil {
		t.Fatal(err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("child answered %q to %q: %v", line, what, err)
	}
	return strings.TrimSpace(line)
}
