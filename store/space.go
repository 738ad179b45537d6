package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"

	"golang.org/x/sys/unix"
)

// Space is how many bytes one more file in a place may have, as things are right
// now. The file that it replaces keeps its room until the new one is whole.
type Space struct {
	// Known is false where nobody tells: a pipe, a file system that reports no
	// size. The rest is 0 then.
	Known bool

	// Sure is what the file system promises to users like this one.
	Sure uint64

	// Most is what no file can exceed: with the reserve that the file system
	// keeps for root, if this process may use that. It is at least Sure, and
	// math.MaxUint64 where bytes take less room than they are many, as the file
	// system compresses them.
	Most uint64
}

// Size is how many bytes a file is expected to take.
type Size struct {
	Least  uint64 // it can hardly take fewer
	Likely uint64
	Most   uint64 // it can hardly take more
}

// SpaceError says that a file can't fit its place. It is syscall.ENOSPC.
type SpaceError struct {
	Path  string
	Size  Size
	Space Space
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s won't fit: it takes about %s, and there are %s left", e.Path, bytesOf(e.Size.Likely), bytesOf(e.Space.Most))
}

// Is reports whether target is what writing the file would end with.
func (e *SpaceError) Is(target error) bool { return target == syscall.ENOSPC }

// Fit fails with a *SpaceError if even the least that a file takes is more than the
// place can have. The warning is not empty where the file may turn out not to fit.
func Fit(ctx context.Context, p Place, name string, size Size) (warning string, err error) {
	s, err := p.Space(ctx)
	switch {
	case err != nil || !s.Known:
		return "", nil //nolint:nilerr // a place that doesn't tell may have enough
	case size.Least > s.Most:
		return "", &SpaceError{Path: p.Path(name), Size: size, Space: s}
	case size.Most > s.Sure:
		return fmt.Sprintf("%s may not fit: it takes about %s, up to %s, and there are %s left",
			p.Path(name), bytesOf(size.Likely), bytesOf(size.Most), bytesOf(s.Sure)), nil
	}
	return "", nil
}

// Magic numbers of file systems that may compress what is written (statfs(2),
// and ZFS_SUPER_MAGIC of OpenZFS).
const (
	magicBcachefs = 0xca451a4e
	magicZFS      = 0x2fc12fc1
)

// spaceOf is the space for a file in the file system of the open file or folder
// fd.
func spaceOf(fd int) (Space, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(fd, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return Space{}, err
		}
	}
	return spaceIn(&st, fileLimit(), unix.Geteuid() == 0), nil
}

// spaceIn is the space that statfs(2) tells of, for a file of limit bytes at most.
func spaceIn(st *unix.Statfs_t, limit uint64, root bool) Space {
	if st.Blocks == 0 || st.Frsize <= 0 && st.Bsize <= 0 {
		return Space{} // some network and FUSE file systems don't tell
	}
	unit := uint64(st.Frsize)
	if st.Frsize <= 0 {
		unit = uint64(st.Bsize)
	}
	s := Space{Known: true, Sure: product(st.Bavail, unit)}
	s.Most = s.Sure
	if root {
		s.Most = max(s.Sure, product(st.Bfree, unit))
	}
	switch st.Type {
	case unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, magicBcachefs, magicZFS:
		s.Most = math.MaxUint64
	}
	s.Sure, s.Most = min(s.Sure, limit), min(s.Most, limit)
	return s
}

// fileLimit is how long a file of this process may become (ulimit -f).
func fileLimit() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		return math.MaxUint64
	}
	return l.Cur // RLIM_INFINITY is the greatest number
}

func product(a, b uint64) uint64 {
	if b > 0 && a > math.MaxUint64/b {
		return math.MaxUint64
	}
	return a * b
}

// bytesOf prints a number of bytes for people, in powers of two.
func bytesOf(n uint64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1023.95 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %ciB", v, units[i])
	}
	return fmt.Sprintf("%.0f %ciB", v, units[i])
}
