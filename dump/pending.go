package dump

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// partialInfix stands between the final name and a random suffix in the name
// of a file that is not finished.
const partialInfix = ".partial-"

// maxStem is how much of the final name goes into the other one, so that any
// final name that the file system takes (255 bytes) leaves room for the rest.
const maxStem = 200

// Pending is a file that doesn't have its final name yet. Whoever has the
// name gets a whole file or none.
//
// google/renameio gives a file beside the final name and syncs it too, but it
// always replaces what is there and does not sync the folder, and both matter
// here: a dump is never replaced unasked, and one that was reported as written
// must survive a crash of the host.
type Pending struct {
	file   *os.File
	dir    *os.File // names are relative to it, so that moving the folder changes nothing
	temp   string
	name   string
	force  bool
	closed bool
}

// Create makes a new, empty file beside path that only its owner may read. If
// something has the name path already, that is an error of class fs.ErrExist,
// unless force is set and it is a regular file. The caller ends with Commit or
// Abort.
func Create(path string, force bool) (*Pending, error) {
	return CreateAs(path, force, rand.Text()[:10])
}

// PartialName returns the name that the file has until Commit if CreateAs is
// given the token.
func PartialName(path, token string) string {
	folder, name := filepath.Split(path)
	return folder + partialName(name, token)
}

func partialName(name, token string) string {
	return name[:min(len(name), maxStem)] + partialInfix + token
}

// CreateAs is Create for a caller who must know the file's first name before it
// is there: token, of at most 30 bytes, ends it, and is used for no other file.
func CreateAs(path string, force bool, token string) (*Pending, error) {
	folder, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return nil, fmt.Errorf("create %q: no file name", path)
	}
	if folder == "" {
		folder = "."
	}
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	p := &Pending{dir: dir, name: name, temp: partialName(name, token), force: force}
	if err := p.create(); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return p, nil
}

func (p *Pending) create() error {
	if err := p.mayPlace(); err != nil {
		return err
	}
	fd, err := unix.Openat(int(p.dir.Fd()), p.temp,
		unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	p.file = os.NewFile(uintptr(fd), filepath.Join(p.dir.Name(), p.temp))
	return nil
}

// mayPlace refuses to go on where Commit would.
func (p *Pending) mayPlace() error {
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("not a regular file: %w", fs.ErrExist)
	case !p.force:
		return fs.ErrExist
	}
	return nil
}

// File returns the file, open for reading and writing. It belongs to p.
func (p *Pending) File() *os.File { return p.file }

// Name returns the name that the file has for now.
func (p *Pending) Name() string { return p.file.Name() }

// Commit syncs the file, closes it, gives it its final name and syncs the
// folder. Without force it replaces nothing, even if the name was taken
// meanwhile. After a failure to name it the file is gone, as after Abort.
func (p *Pending) Commit() error {
	if p.closed {
		return fmt.Errorf("commit %s: %w", p.name, os.ErrClosed)
	}
	if err := p.place(); err != nil {
		return errors.Join(fmt.Errorf("commit %s: %w", filepath.Join(p.dir.Name(), p.name), err), p.Abort())
	}
	p.closed = true
	err := p.dir.Sync()
	if err != nil {
		err = fmt.Errorf("sync folder %s: %w", p.dir.Name(), err)
	}
	return errors.Join(err, p.dir.Close())
}

func (p *Pending) place() error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	if err := p.file.Close(); err != nil {
		return err
	}
	fd := int(p.dir.Fd())
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
func (p *Pending) link() error {
	fd := int(p.dir.Fd())
	if err := unix.Linkat(fd, p.temp, fd, p.name, 0); err != nil {
		return err
	}
	_ = unix.Unlinkat(fd, p.temp, 0) // the dump is in place; a second name for it is no failure
	return nil
}

// Abort removes the file. After Commit, or another Abort, it does nothing.
func (p *Pending) Abort() error {
	if p.closed {
		return nil
	}
	p.closed = true
	err := unix.Unlinkat(int(p.dir.Fd()), p.temp, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("remove %s: %w", p.Name(), err)
	}
	_ = p.file.Close() // nothing in it matters any more
	return errors.Join(err, p.dir.Close())
}
