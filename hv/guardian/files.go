package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// filesFor is how long it is waited for partial files to be removed. What they lie on
// may be gone.
const filesFor = 10 * time.Second

// FilesError says that all is undone but that partial files are still there.
type FilesError struct{ Err error }

func (e *FilesError) Error() string { return e.Err.Error() }

// Unwrap returns why.
func (e *FilesError) Unwrap() error { return e.Err }

// removeFilesWithin is removeFiles, given up after a time: what hangs goes on in the
// background.
func (r *Run) removeFilesWithin(d time.Duration) (gone []string, err error) {
	type result struct {
		gone []string
		err  error
	}
	done := make(chan result, 1)
	files := *r // r may change meanwhile
	go func() {
		gone, err := files.removeFiles()
		done <- result{gone, err}
	}()
	select {
	case got := <-done:
		return got.gone, got.err
	case <-time.After(d):
		return nil, fmt.Errorf("remove %s: %w within %v from what they lie on", strings.Join(r.Files, ", "), hv.ErrNoAnswer, d)
	}
}

// removeFiles removes the run's partial files. It returns those that were there.
func (r *Run) removeFiles() (gone []string, err error) {
	var errs []error
	for _, f := range r.Files {
		switch err := r.removeFile(f); {
		case err == nil:
			gone = append(gone, f)
		case !errors.Is(err, errRemoved):
			errs = append(errs, fmt.Errorf("remove %q: %w", f, err))
		}
	}
	return gone, errors.Join(errs...)
}

// errRemoved is the failure to remove a file that isn't there any more.
var errRemoved = errors.New("it is gone")

// removeFile removes one. What has a name of the run's, 80 bits that nobody guesses,
// and is a regular file of this user's, is what the run made: nothing else is
// touched, wherever the path leads by now.
func (r *Run) removeFile(path string) error {
	if isFar(path) {
		return r.removeFar(path)
	}
	name := filepath.Base(path)
	if !filepath.IsAbs(path) || !strings.HasSuffix(name, partialInfix+r.ID) {
		return fmt.Errorf("%w: it is not a partial file of this dump", hv.ErrFormat)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open its folder, which may not be mounted: %w", err)
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	} else if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it is not a regular file of this user's", hv.ErrFormat)
	}
	if err := unix.Unlinkat(dir, name, 0); errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	} else if err != nil {
		return err
	}
	return nil
}

// isFar reports whether a path is the URL of something at another host.
func isFar(path string) bool { return !filepath.IsAbs(path) && strings.Contains(path, "://") }

// removeFar removes what is at another host.
func (r *Run) removeFar(url string) error {
	if r.Remove == nil {
		return fmt.Errorf("%w: there are no files at another host here", hv.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(context.Background(), filesFor)
	defer cancel()
	err := r.Remove(ctx, url, r.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return errRemoved
	}
	return err
}

// setAside gives the state file of a dump of which only partial files are left a name
// of its own, so that another dump of the domain can be taken: snap recover tries
// again to remove them.
func (r *Run) setAside(dir string, trouble error) error {
	from := r.path(dir)
	r.Aside, r.Holding = true, false
	r.setTrouble(trouble)
	if err := r.save(dir); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// setTrouble notes why undoing failed, on one line.
func (r *Run) setTrouble(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	text = strings.ToValidUTF8(text, "?")
	r.Trouble = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, text[:min(len(text), maxText/2)])
}
