package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// partialInfix stands between the final name and a suffix in the name of a file
// that is not finished.
const partialInfix = ".partial-"

// maxStem is how much of the final name goes into the other one, so that any
// final name that the file system takes (255 bytes) leaves room for the rest.
const maxStem = 200

// folderKind is a folder of this host. It takes every destination.
func folderKind() kind {
	return kind{
		forms:   []string{"a file", "a folder"},
		takes:   func(string) bool { return true },
		open:    openPath,
		archive: openFolderArchive,
	}
}

// openPath opens the folder that a path is in, or that it is.
func openPath(dest string, o Options) (Place, string, error) {
	folder, name := filepath.Split(dest)
	if info, err := os.Stat(dest); err == nil && info.IsDir() {
		folder, name = dest, ""
	}
	folder = filepath.Clean(folder)
	switch info, err := os.Stat(folder); {
	case errors.Is(err, unix.ENOTDIR):
		return nil, "", &Error{"open", folder, ErrNotFolder}
	case err != nil:
		return nil, "", &Error{"open", folder, reason(err)}
	case !info.IsDir():
		return nil, "", &Error{"open", folder, ErrNotFolder}
	}
	return newFolder(folder, o), name, nil
}

// Folder returns a folder of this host as a place for files. Only their owner may
// read them. The path is used when a file is created; "" is the current folder.
//
// A file is written beside its final name, or without any, and gets the name when it
// is synced; the folder is synced after that; neither symbolic links nor anything but
// regular files are followed or replaced.
//
// google/renameio gives a file beside the final name and syncs it too, but it
// always replaces what is there and does not sync the folder, and both matter
// here: a dump is never replaced unasked, and one that was reported as written
// must survive a crash of the host.
func Folder(path string, o Options) Place { return newInterruptible(newFolder(path, o)) }

func newFolder(path string, o Options) *folder {
	switch path = filepath.Clean(path); {
	case path == ".":
		path = ""
	case !strings.HasSuffix(path, "/"):
		path += "/"
	}
	return &folder{prefix: path, options: o}
}

type folder struct {
	prefix  string // of a name, to make it a path: empty or with a "/" at its end
	options Options
}

// Path implements Place.
func (d *folder) Path(name string) string {
	path := d.prefix + name
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// Check implements Place.
func (d *folder) Check(_ context.Context, name string) error {
	f, err := d.begin(name)
	if err != nil {
		return err
	}
	// With the rights that files are made with, not those of who started this.
	err = unix.Faccessat(int(f.dir.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	_ = f.dir.Close() // it was only looked at
	if err != nil {
		return &Error{"create", d.prefix + name, err}
	}
	return nil
}

// Space implements Place.
func (d *folder) Space(context.Context) (Space, error) {
	path := filepath.Clean(d.prefix)
	dir, err := os.Open(path)
	if err != nil {
		return Space{}, &Error{"open", path, reason(err)}
	}
	defer dir.Close()
	s, err := spaceOf(int(dir.Fd()))
	if err != nil {
		return Space{}, &Error{"ask for the space in", path, err}
	}
	return s, nil
}

// ReadsBack implements Place.
func (d *folder) ReadsBack() bool { return true }

// reason is err without the call and the path that package os adds.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Create implements Place.
func (d *folder) Create(_ context.Context, name string) (File, error) {
	f, err := d.begin(name)
	if err != nil {
		return nil, err
	}
	if err := f.create(d.prefix, d.options.Guardian); err != nil {
		_ = f.dir.Close() // it was only looked at
		return nil, &Error{"create", d.prefix + name, err}
	}
	return f, nil
}

// begin opens the folder for a file that may get that name.
func (d *folder) begin(name string) (*pending, error) {
	path := d.prefix + name
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return nil, &Error{"create", path, ErrName}
	}
	dir, err := os.Open(filepath.Clean(d.prefix))
	if err != nil {
		return nil, &Error{"open", filepath.Clean(d.prefix), reason(err)}
	}
	f := &pending{dir: dir, name: name, force: d.options.Force}
	f.hashed = newSum(d.options)
	if err := f.mayPlace(); err != nil {
		_ = dir.Close() // it was only looked at
		return nil, &Error{"create", path, err}
	}
	return f, nil
}

// pending is a file that doesn't have its final name yet. Whoever has the name
// gets a whole file or none.
type pending struct {
	sparseFile
	dir   *os.File // names are relative to it, so that moving the folder changes nothing
	temp  string   // its name until then, "" if it has none
	name  string
	force bool
}

var (
	_ HoleWriter    = (*pending)(nil)
	_ ScatterWriter = (*pending)(nil)
)

// create makes the new, empty file. prefix makes its name a path.
//
// Where nobody would remove it should this process be killed, it has no name at all
// until it is whole, if the file system can do that (open(2), O_TMPFILE); where it
// can't, as NFS, a later run removes it (removeStale).
func (p *pending) create(prefix string, k Guardian) error {
	if k == nil {
		removeStale(p.dir)
		if p.createNameless() {
			return nil
		}
	}
	p.temp = p.tempName(k)
	if k != nil {
		if err := k.Expect(prefix + p.temp); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(int(p.dir.Fd()), p.temp,
		unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // somebody writes it
	p.f = os.NewFile(uintptr(fd), filepath.Join(p.dir.Name(), p.temp))
	return nil
}

// mayPlace refuses to go on where Commit would.
func (p *pending) mayPlace() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: %w", ErrNotRegular, fs.ErrExist)
	case !p.force:
		return fs.ErrExist
	}
	return nil
}

// Write implements io.Writer. The error names the file that is to be, not the
// one that is written meanwhile.
func (p *pending) Write(b []byte) (int, error) {
	n, err := p.sparseFile.Write(b)
	if err != nil {
		err = &Error{"write", p.path(), reason(err)}
	}
	return n, err
}

// path is how messages call the file.
func (p *pending) path() string { return filepath.Join(p.dir.Name(), p.name) }

// Reopen implements File. What was written goes to the disk and leaves the host's
// cache, so that what is read is what the disk has.
func (p *pending) Reopen(context.Context) (io.ReaderAt, int64, error) {
	if err := p.setLength(); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", p.f.Name(), err)
	}
	if err := p.f.Sync(); err != nil {
		p.broken = &Error{"write", p.path(), reason(err)} // which is told of once
		return nil, 0, p.broken
	}
	forget(p.f, fileRange{})
	return readBack{io.NewSectionReader(&forgetful{f: p.f}, 0, p.off), p.f}, p.off, nil
}

// Commit syncs the file, closes it, gives it its final name and syncs the
// folder.
func (p *pending) Commit(context.Context) error {
	if p.closed {
		return fmt.Errorf("commit %s: %w", p.name, os.ErrClosed)
	}
	if err := p.place(); err != nil {
		return errors.Join(&Error{"commit", p.path(), reason(err)}, p.Abort())
	}
	p.closed = true
	err := p.dir.Sync()
	if err != nil {
		err = &Error{"sync the folder of", p.path(), reason(err)}
	}
	return errors.Join(err, p.dir.Close())
}

func (p *pending) place() error {
	if err := p.setLength(); err != nil {
		return err
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	forget(p.f, fileRange{})
	fd := int(p.dir.Fd())
	if p.temp == "" {
		if placed, err := p.giveName(); placed || err != nil {
			return errors.Join(err, p.f.Close())
		}
	}
	if err := p.f.Close(); err != nil {
		return err
	}
	if p.force {
		if err := p.mayPlace(); err != nil {
			return err
		}
		return unix.Renameat(fd, p.temp, fd, p.name)
	}
	err := unix.Renameat2(fd, p.temp, fd, p.name, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return p.link() // the file system has no such rename; NFS is one
}

// link is a rename that replaces nothing, in two steps.
func (p *pending) link() error {
	fd := int(p.dir.Fd())
	if err := unix.Linkat(fd, p.temp, fd, p.name, 0); err != nil {
		return err
	}
	_ = unix.Unlinkat(fd, p.temp, 0) // the file is in place; a second name for it is no failure
	return nil
}

// Abort implements File.
func (p *pending) Abort() error {
	if p.closed {
		return nil
	}
	p.closed = true
	var err error
	if p.temp != "" {
		err = unix.Unlinkat(int(p.dir.Fd()), p.temp, 0)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("remove %s: %w", p.f.Name(), err)
	}
	_ = p.f.Close() // nothing in it matters any more
	return errors.Join(err, p.dir.Close())
}
