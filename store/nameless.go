package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// tokenLength is how many characters end the name of a file that has no Guardian.
const tokenLength = 10

// tempName makes a name for a file that isn't finished.
func (p *pending) tempName(k Guardian) string {
	token := rand.Text()[:tokenLength]
	if k != nil {
		token = k.Token()
	}
	return p.name[:min(len(p.name), maxStem)] + partialInfix + token
}

// createNameless makes the file without a name, and reports whether it could.
func (p *pending) createNameless() bool {
	fd, err := unix.Openat(int(p.dir.Fd()), ".", unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	if err := unix.Access(ownLink(fd), unix.F_OK); err != nil { // by which it gets its name
		_ = unix.Close(fd) // there is nothing in it
		return false
	}
	p.f = os.NewFile(uintptr(fd), p.path())
	return true
}

// ownLink leads to the file that is open as fd.
func ownLink(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// giveName gives the file its final name if nothing has it. Where something has that
// may be replaced, the file gets another name, for a rename.
func (p *pending) giveName() (placed bool, err error) {
	dir, link := int(p.dir.Fd()), ownLink(int(p.f.Fd()))
	err = unix.Linkat(unix.AT_FDCWD, link, dir, p.name, unix.AT_SYMLINK_FOLLOW)
	if err == nil || !p.force || !errors.Is(err, unix.EEXIST) {
		return err == nil, err
	}
	temp := p.tempName(nil)
	if err := unix.Linkat(unix.AT_FDCWD, link, dir, temp, unix.AT_SYMLINK_FOLLOW); err != nil {
		return false, err
	}
	p.temp = temp
	return false, nil
}

// Bounds on looking for files that a killed process left.
const (
	// staleAfter is how long nobody wrote to them at least: a lock is taken a moment
	// after a file is made.
	staleAfter = time.Minute
	// maxEntries bounds how many files of a folder are looked at.
	maxEntries = 10000
)

// staleName is the name of a file that wasn't finished and had no Guardian.
var staleName = regexp.MustCompile(regexp.QuoteMeta(partialInfix) + fmt.Sprintf("[A-Z2-7]{%d}$", tokenLength))

// removeStale removes what processes that were killed left in the folder: regular files
// of this user's with such a name that nobody has locked, as who writes them does. What
// fails is left for the next time.
func removeStale(dir *os.File) {
	d, err := os.Open(ownLink(int(dir.Fd()))) // with an offset of its own
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	for _, name := range names {
		if staleName.MatchString(name) {
			removeIfStale(int(dir.Fd()), name)
		}
	}
}

func removeIfStale(dir int, name string) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		return
	}
	if time.Since(time.Unix(st.Mtim.Unix())) < staleAfter || unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	_ = unix.Unlinkat(dir, name, 0) // the next time, then
}
