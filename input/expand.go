package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"snap/internal/sparse"
)

// Scratch says where the expanded bytes of a compressed file go: they must be read
// at any offset, and what compresses one file as a whole can be read only from its
// start. Nothing of it has a name, and it is gone as soon as the file is closed or
// the process has ended, however that was. It holds the guest's memory in clear.
type Scratch struct {
	// Dir is a folder on whose file system the bytes may lie; empty for none:
	// they lie in memory then.
	Dir string

	// Memory is the most bytes of memory that they may take.
	Memory uint64
}

// Limits of what is expanded.
const (
	maxExpanded  = 16 << 40  // bytes: more than any guest that x86-64 hypervisors run
	scratchSpare = 256 << 20 // bytes of the file system that are left for others
	expandChunk  = 1 << 20
	expandBlock  = 4 << 10 // what is zero of it becomes a hole
)

// NoRoomError says that a compressed file couldn't be expanded for want of room. It
// is unix.ENOSPC.
type NoRoomError struct {
	Path    string // of the file
	Where   string // the folder, or "memory"
	Command string // that expands the file, with FILE for its name
}

func (e *NoRoomError) Error() string {
	return fmt.Sprintf("expand %s into %s: no room for all of it", e.Path, e.Where)
}

// Is reports whether target is ENOSPC.
func (e *NoRoomError) Is(target error) bool { return target == unix.ENOSPC }

// Inside returns the first bytes of what is compressed in a file, at most n, and
// the name of the compression; nil and false if the file isn't compressed.
func Inside(r io.ReaderAt, size int64, n int) (head []byte, name string, err error) {
	c, ok, err := compressionOf(r, size)
	if err != nil || !ok {
		return nil, "", err
	}
	s, err := c.stream(r, size)
	if err != nil {
		return nil, c.name, err
	}
	defer s.Close()
	head = make([]byte, n)
	got, err := io.ReadFull(s, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrCompression) {
		err = nil
	}
	if got > 0 {
		err = nil // what follows is for whoever reads it all
	}
	return head[:got], c.name, err
}

// Expand returns f if it isn't compressed, and else what is in it, expanded as a
// whole to where s says. f is closed then. The error is of class ErrCompression
// if the compression is damaged, a *NoRoomError, or a *Refusal of what is
// compressed twice.
func Expand(ctx context.Context, f *File, s Scratch) (*File, error) {
	c, ok, err := compressionOf(f, f.Size())
	if err != nil {
		return nil, err
	}
	if !ok {
		return f, nil
	}
	out, err := s.create()
	if err != nil {
		return nil, fmt.Errorf("make room for what is in %s: %w", f.name, err)
	}
	x := &expansion{Scratch: s, f: f, c: c, out: out}
	if err := x.run(ctx); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	if err := f.Close(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	inside := newFile(f.name, local{sparse.File{File: out}, x.at})
	inside.expanded = c.name
	return inside, nil
}

// create makes a file without a name.
func (s Scratch) create() (*os.File, error) {
	if s.Dir == "" {
		fd, err := unix.MemfdCreate("snap", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("memfd_create", err)
		}
		return os.NewFile(uintptr(fd), "memory"), nil
	}
	f, err := os.OpenFile(s.Dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return f, err
	}
	// Some file systems don't have that.
	if f, err = os.CreateTemp(s.Dir, ".snap-expanded-"); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// expansion is a file that is being expanded.
type expansion struct {
	Scratch
	f       *File
	c       compression
	out     *os.File
	at      int64 // bytes expanded
	written uint64
	checked uint64 // written at the last look at the room
}

func (x *expansion) run(ctx context.Context) error {
	in, err := x.c.stream(x.f, x.f.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", x.f.name, err)
	}
	defer in.Close()
	buf := make([]byte, expandChunk)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(in, buf)
		if err := x.put(buf[:n]); err != nil {
			return err
		}
		switch {
		case err == nil:
		case errors.Is(err, ErrCompression), errors.Is(err, ErrShrunk):
			return fmt.Errorf("%s: %w", x.f.name, err)
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return x.end()
		default:
			return fmt.Errorf("%s: %w", x.f.name, err)
		}
	}
}

// put writes what isn't zero of the next bytes.
func (x *expansion) put(p []byte) error {
	if x.at == 0 && len(p) > 0 {
		if c, again := beginsWith(p); again {
			return &Refusal{
				Path: x.f.name, What: fmt.Sprintf("compressed with %s, and with %s inside of that", x.c.name, c.name),
				Why: "snap takes away one compression", Next: "expand it once: " + x.c.expand,
			}
		}
	}
	if x.at+int64(len(p)) > maxExpanded {
		return fmt.Errorf("%s: it expands to more than %d TiB: %w", x.f.name, maxExpanded>>40, ErrCompression)
	}
	for off := 0; off < len(p); {
		end := off
		for end < len(p) && !isZero(p[end:min(end+expandBlock, len(p))]) {
			end = min(end+expandBlock, len(p))
		}
		if end == off {
			off = min(off+expandBlock, len(p))
			continue
		}
		x.written += uint64(end - off)
		if err := x.room(); err != nil {
			return err
		}
		if _, err := x.out.WriteAt(p[off:end], x.at+int64(off)); err != nil {
			return x.full(err)
		}
		off = end
	}
	x.at += int64(len(p))
	return nil
}

var zeroBlock [expandBlock]byte

func isZero(p []byte) bool { return bytes.Equal(p, zeroBlock[:len(p)]) }

// room fails if there is none left.
func (x *expansion) room() error {
	if x.Dir == "" {
		if x.written > x.Memory {
			return x.full(unix.ENOSPC)
		}
		return nil
	}
	if x.checked > 0 && x.written-x.checked < scratchSpare/4 {
		return nil
	}
	x.checked = x.written
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(x.out.Fd()), &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if st.Bavail < scratchSpare/uint64(max(st.Bsize, 1)) {
		return x.full(unix.ENOSPC)
	}
	return nil
}

func (x *expansion) full(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("expand %s: %w", x.f.name, err)
	}
	where := x.Dir
	if where == "" {
		where = "memory"
	}
	return &NoRoomError{Path: x.f.name, Where: where, Command: x.c.expand}
}

// end gives the file its length, which a hole at its end doesn't.
func (x *expansion) end() error {
	if x.at == 0 {
		r := empty(x.f.name)
		r.What = "compressed with " + x.c.name + ", and empty inside"
		return r
	}
	return x.out.Truncate(x.at)
}
