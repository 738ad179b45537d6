// Package mount shows bytes that can be read at any offset as a file of a folder,
// read-only, by the kernel's FUSE.
package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Reasons why a file can't be shown, beside those of the system.
var (
	// ErrNoFUSE: this host has no /dev/fuse, or nothing that mounts for users other
	// than root.
	ErrNoFUSE = errors.New("this host has no FUSE")

	// ErrDenied: this user, or this container, may not mount.
	ErrDenied = errors.New("mounting isn't allowed")

	// ErrNotEmpty: only an empty folder is mounted over, so that nothing is hidden.
	ErrNotEmpty = errors.New("the folder isn't empty")

	// ErrNotFolder: what is to be mounted over is no folder.
	ErrNotFolder = errors.New("not a folder")

	// ErrNoFolder: the folder isn't there. The error is fs.ErrNotExist too.
	ErrNoFolder = errors.New("there is no such folder")

	// ErrStale: a file system is mounted there whose process is gone.
	ErrStale = errors.New("a mount is there whose program has ended")

	// ErrRefused: the kernel, or fusermount, doesn't mount.
	ErrRefused = errors.New("mounting was refused")

	// ErrBusy: somebody uses the file, so that the mount only left the folder. Reads of
	// that file fail from then on.
	ErrBusy = errors.New("somebody still has the file open")
)

// File is what is shown.
type File struct {
	Name     string // one element of a path
	Size     int64  // bytes
	Modified time.Time

	// Content is read by several goroutines at a time.
	Content io.ReaderAt

	// Read, if not nil, is told of each read: at which offset, and why it failed. A
	// read that failed gives EIO to who reads, and isn't kept: the next one asks
	// Content again. It is called by several goroutines at a time.
	Read func(off int64, err error)
}

// Options are of a mount.
type Options struct {
	// AllowOther lets all users read the file. Else only who mounted it can, and not
	// even root can if it wasn't.
	AllowOther bool

	// Log takes what the FUSE library has to say.
	Log *log.Logger
}

// How long the kernel keeps what it knows of the file, which never changes.
const kept = time.Hour

// transfer is the most bytes of a read: the kernel's most (FUSE_MAX_MAX_PAGES of
// fs/fuse/fuse_i.h, 256 pages).
const transfer = 1 << 20

// Mount is a file that is shown.
type Mount struct {
	dir    string
	server *fuse.Server
	direct bool
	ended  chan struct{}
}

// New shows a file in the folder dir, which must be empty, until Close, or until
// somebody unmounts it.
func New(dir string, f File, o Options) (*Mount, error) {
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = suitable(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", dir, err)
	}
	m := &Mount{dir: dir, direct: os.Geteuid() == 0, ended: make(chan struct{})}
	long := kept
	options := &fs.Options{EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long, MountOptions: fuse.MountOptions{
		AllowOther: o.AllowOther, Options: []string{"default_permissions"},
		FsName: "snap", Name: "snap", DisableXAttrs: true, MaxWrite: transfer, MaxReadAhead: transfer, Logger: o.Log,
	}}
	if m.direct {
		options.DirectMountStrict, options.DirectMountFlags = true, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC
	} else {
		options.Options = append(options.Options, "ro", "nosuid", "nodev", "noexec")
	}
	m.server, err = fs.Mount(dir, &folder{file: f, others: o.AllowOther}, options)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("mount at %s: %w: %w", dir, ErrDenied, err)
		}
		return nil, fmt.Errorf("mount at %s: %w: %s", dir, ErrRefused, strings.TrimSpace(err.Error()))
	}
	go func() {
		m.server.Wait()
		close(m.ended)
	}()
	return m, nil
}

// suitable reports whether something can be mounted over dir.
func suitable(dir string) error {
	if err := available(); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return ErrStale
	case errors.Is(err, unix.ENOTDIR):
		return ErrNotFolder
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNoFolder, err)
	case err != nil:
		return err
	case len(names) > 0:
		return ErrNotEmpty
	}
	return nil
}

// available reports whether this host has what it takes. Users other than root need no
// right on the device, but a program that has it.
func available() error {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("%w: %w", ErrNoFUSE, err)
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if _, err := fusermount(); err != nil {
		return fmt.Errorf("%w for users other than root: %w", ErrNoFUSE, err)
	}
	return nil
}

// fusermount returns the program that mounts for users other than root.
func fusermount() (path string, err error) {
	if path, err = exec.LookPath("fusermount3"); err != nil {
		path, err = exec.LookPath("fusermount")
	}
	return path, err
}

// Ended is closed when the file isn't shown any more.
func (m *Mount) Ended() <-chan struct{} { return m.ended }

// Close unmounts. While somebody has the file open it only leaves the folder, with
// ErrBusy.
func (m *Mount) Close() error {
	select {
	case <-m.ended:
		return nil
	default:
	}
	err := m.server.Unmount()
	if err == nil {
		<-m.ended
		return nil
	}
	if lazy := m.detach(); lazy != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, errors.Join(err, lazy))
	}
	return fmt.Errorf("unmount %s: %w", m.dir, ErrBusy)
}

// detach takes the mount out of the folder, whoever uses it.
func (m *Mount) detach() error {
	if m.direct {
		return unix.Unmount(m.dir, unix.MNT_DETACH)
	}
	path, err := fusermount()
	if err != nil {
		return err
	}
	return exec.Command(path, "-u", "-z", m.dir).Run()
}

// folder is the root, with nothing but the file.
type folder struct {
	fs.Inode
	file   File
	others bool
}

// OnAdd implements fs.NodeOnAdder.
func (r *folder) OnAdd(ctx context.Context) {
	r.AddChild(r.file.Name, r.NewPersistentInode(ctx, &regular{File: r.file, others: r.others}, fs.StableAttr{Mode: fuse.S_IFREG}), false)
}

// Getattr implements fs.NodeGetattrer.
func (r *folder) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	fill(&out.Attr, 0o555, r.others, r.file.Modified)
	return 0
}

// regular is the file.
type regular struct {
	fs.Inode
	File
	others bool
}

// Getattr implements fs.NodeGetattrer.
func (f *regular) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	fill(&out.Attr, 0o444, f.others, f.Modified)
	out.Nlink = 1
	out.Size = uint64(f.Size)
	return 0
}

// fill sets what the folder and the file have in common: they belong to who mounted
// them.
func fill(a *fuse.Attr, mode uint32, others bool, modified time.Time) {
	if !others {
		mode &= 0o700
	}
	a.Mode, a.Uid, a.Gid = mode, uint32(os.Geteuid()), uint32(os.Getegid())
	a.SetTimes(&modified, &modified, &modified)
}

// Open implements fs.NodeOpener. What the kernel has read once it keeps.
func (f *regular) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, 0, unix.EROFS
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read implements fs.NodeReader.
func (f *regular) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := f.Content.ReadAt(p, off)
	if errors.Is(err, io.EOF) && off+int64(n) >= f.Size {
		err = nil
	}
	if err == nil && n < len(p) && off+int64(n) < f.Size {
		err = io.ErrUnexpectedEOF
	}
	if f.File.Read != nil {
		f.File.Read(off, err)
	}
	if err != nil {
		return nil, unix.EIO
	}
	return fuse.ReadResultData(p[:n]), 0
}

var (
	_ fs.NodeOnAdder   = (*folder)(nil)
	_ fs.NodeGetattrer = (*folder)(nil)
	_ fs.NodeGetattrer = (*regular)(nil)
	_ fs.NodeOpener    = (*regular)(nil)
	_ fs.NodeReader    = (*regular)(nil)
)
