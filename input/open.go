package input

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"snap/internal/sparse"
)

// Stdin is the name that means standard input.
const Stdin = "-"

// Source is where the bytes of a File are: a file of this host, an object of a far
// one, what is inside of another file. It is safe for concurrent use but for Close.
type Source interface {
	// ReadAt fills all of p, or fails.
	io.ReaderAt
	io.Closer

	// Size is the length in bytes at the time of opening.
	Size() int64
}

// File is a file, or a disk, that can be read at any offset. It is safe for concurrent
// use but for Close.
type File struct {
	shared    *shared
	name      string
	expanded  string // the compression that was taken away, if any
	decrypted bool
	closed    bool
}

// shared is a source of several files, of which the last one closes it.
type shared struct {
	Source
	files atomic.Int32
}

// New returns what s has as a file of that name, which closes s. The error is a
// *Refusal, and s is closed, if there is nothing in it.
func New(name string, s Source) (*File, error) {
	if s.Size() <= 0 {
		return nil, errors.Join(empty(name), s.Close())
	}
	return newFile(name, s), nil
}

func newFile(name string, s Source) *File {
	f := &File{shared: &shared{Source: s}, name: name}
	f.shared.files.Store(1)
	return f
}

// Name returns the file's name as it was given, also where the bytes are read from
// an expanded copy.
func (f *File) Name() string { return f.name }

// Size returns the length in bytes at the time of opening. It is never 0.
func (f *File) Size() int64 { return f.shared.Size() }

// Expanded returns the name of the compression that Expand took away, and false
// if this is the file itself.
func (f *File) Expanded() (string, bool) { return f.expanded, f.expanded != "" }

// Decrypted reports whether Decrypt took away an encryption.
func (f *File) Decrypted() bool { return f.decrypted }

// Dup returns the same file once more, to be closed by itself.
func (f *File) Dup() *File {
	f.shared.files.Add(1)
	d := *f
	return &d
}

// Close closes the file. What it is of is closed with the last one that Dup returned.
func (f *File) Close() error {
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	if f.shared.files.Add(-1) > 0 {
		return nil
	}
	return f.shared.Close()
}

// ErrShrunk says that a file is shorter than it was when it was opened: somebody
// truncated it or is writing it anew.
var ErrShrunk = errors.New("the file became shorter while it was read: somebody is writing to it")

// ReadAt implements io.ReaderAt. What was in the file when it was opened and no
// longer is fails with ErrShrunk.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.shared.ReadAt(p, off)
	if errors.Is(err, io.EOF) && off < f.Size() && off+int64(n) < f.Size() && n < len(p) {
		err = fmt.Errorf("read %s at %#x: %w", f.name, off+int64(n), ErrShrunk)
	}
	return n, err
}

// NextData implements sparse.Finder. What only can be read, as disks, is data.
func (f *File) NextData(off, end int64) (lo, hi int64, err error) {
	if s, ok := f.shared.Source.(sparse.Finder); ok {
		return s.NextData(off, end)
	}
	return min(off, end), end, nil
}

// local is a file of this host.
type local struct {
	sparse.File
	size int64
}

// Size implements Source.
func (l local) Size() int64 { return l.size }

// Open opens the file at path, or standard input for "-". It never waits, and
// opens neither FIFOs nor sockets nor devices other than disks: the error is a
// *Refusal for them, for folders, and for files with nothing in them. Other errors
// are those of os.Open.
func Open(path string) (*File, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	size, err := length(f)
	if err == nil && size == 0 {
		err = empty(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newFile(path, local{sparse.File{File: f}, size}), nil
}

// place is where a file is opened, and what messages call it.
func place(path string) (at, name string) {
	if path == Stdin {
		return "/dev/stdin", "standard input"
	}
	return path, path
}

// open opens a file that can be read at any offset.
func open(path string) (*os.File, error) {
	at, name := place(path)
	// What a file is, is asked before it is opened: to open a FIFO disturbs whoever
	// writes to it, and to open a device may do anything.
	info, err := os.Stat(at)
	if err != nil {
		return nil, err
	}
	if err := refuse(name, info.Mode()); err != nil {
		return nil, err
	}
	// It may have become something else meanwhile: O_NONBLOCK keeps even that from
	// making us wait.
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = refuse(name, info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// length returns the bytes of a regular file or of a disk.
func length(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode().IsRegular() {
		return info.Size(), nil
	}
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the length of %s: %w", f.Name(), err)
	}
	return n, nil
}

// refuse fails for files that can't be read at any offset.
func refuse(name string, mode fs.FileMode) error {
	const saveIt = "save what comes out of it to a file first, and give that file"
	r := &Refusal{Path: name, Why: "snap reads a file at any offset, and this can only be read once, from its start", Next: saveIt}
	switch {
	case mode.IsRegular(), mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		return nil
	case mode.IsDir():
		r.What, r.Why, r.Next = "a folder", "a file is wanted", "name a file in it: ls FILE"
	case mode&fs.ModeNamedPipe != 0:
		r.What = "a FIFO or a pipe"
	case mode&fs.ModeSocket != 0:
		r.What = "a socket"
	case mode&fs.ModeCharDevice != 0:
		r.What, r.Why = "a character device", "a terminal or a device that isn't a disk holds no file"
		r.Next = "name the file itself; a running guest is dumped by its domain's name: snap dump DOMAIN"
	default:
		r.What, r.Why, r.Next = "no regular file ("+mode.Type().String()+")", "a regular file or a disk is wanted", saveIt
	}
	return r
}

func empty(path string) *Refusal {
	_, name := place(path)
	return &Refusal{
		Path: name, What: "empty", Why: "there is not one byte in it",
		Next: "see why whatever should have written it didn't, and make it again",
	}
}

// pipefs is the file system of pipes without a name (linux/magic.h).
const pipefs = 0x50495045

// OpenText opens a file to read it once from its start, such as a list. Beside
// what Open takes it may be empty, or a pipe that this process was given, as
// /dev/stdin and the shell's <(command) are; a read of one fails when ctx ends. A
// FIFO with a name is refused, since it would have to be waited for. The caller
// closes what it gets.
func OpenText(ctx context.Context, path string) (io.ReadCloser, error) {
	at, name := place(path)
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil || fs.Type != pipefs {
		return open(path)
	}
	f, err := os.OpenFile(at, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	t := &pipe{File: f, ctx: ctx, name: name}
	t.stop = context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(0, 1)) })
	return t, nil
}

// pipe is a pipe whose reads end with a context.
type pipe struct {
	*os.File
	ctx  context.Context
	name string
	stop func() bool
}

func (t *pipe) Read(p []byte) (int, error) {
	n, err := t.File.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && t.ctx.Err() != nil {
		err = fmt.Errorf("read %s: %w", t.name, context.Cause(t.ctx))
	}
	return n, err
}

func (t *pipe) Close() error {
	t.stop()
	return t.File.Close()
}
