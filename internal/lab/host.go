package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dir returns the folder of the guest called name. It is one that QEMU's user
// can get to.
func (c *Connection) dir(name string) (string, error) {
	root := guestsRoot
	if os.Geteuid() != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		root = filepath.Join(home, ".local", "state", "snap-lab")
	}
	return filepath.Join(root, string(c.Kind), name), nil
}

// makeDir makes the guest's folder; that it is new is what keeps two guests
// of one name apart. One whose guest is gone is removed before: whoever started
// that was killed. The lock says that somebody is at it, and is the caller's.
func makeDir(ctx context.Context, c *Connection, name string) (dir string, lock *os.File, err error) {
	if dir, err = c.dir(name); err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", nil, err
	}
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		if err := removeLeft(ctx, c, name, dir); err != nil {
			return "", nil, err
		}
		err = os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return "", nil, err
	}
	lock, err = lockDir(dir)
	return dir, lock, errors.Join(err, os.Chmod(dir, 0o755), c.User.own(dir))
}

// lockDir locks a guest's folder until the file is closed, or this process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "starting"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// removeLeft removes the folder of a guest that is gone, and fails if it isn't.
func removeLeft(ctx context.Context, c *Connection, name, dir string) error {
	exists := fmt.Errorf("%s exists: end that guest with scripts/lab down --name %s --connect %s", dir, name, c.Kind)
	lock, err := lockDir(dir)
	if err != nil {
		return errors.Join(exists, err)
	}
	defer lock.Close()
	guests, err := list(ctx, c)
	if err != nil {
		return err
	}
	if _, there := guests[name]; there {
		return exists
	}
	return errors.Join(returnHugepages(dir), os.RemoveAll(dir))
}

// writeReadable writes a file that every user may read, whatever the umask.
func writeReadable(path string, b []byte) error {
	return errors.Join(os.WriteFile(path, b, 0o644), os.Chmod(path, 0o644))
}

// hugepages is where Linux counts its 2 MiB pages.
const hugepages = "/sys/kernel/mm/hugepages/hugepages-2048kB/"

func readHugepages(name string) (uint64, error) {
	b, err := os.ReadFile(hugepages + name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// lockHugepages keeps others from counting the host's 2 MiB pages until unlock: tests
// of several packages start guests at a time.
func lockHugepages() (unlock func(), err error) {
	f, err := os.Open(hugepages + "nr_hugepages")
	if err != nil {
		return nil, fmt.Errorf("2 MiB pages on this host: %w", err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// reserveHugepages adds so much memory to the host's 2 MiB pages, and notes in dir how
// many they are. Those that are free already count only where no more can be had: they
// may be another guest's, which hasn't touched them yet.
func reserveHugepages(dir string, mib uint64) error {
	unlock, err := lockHugepages()
	if err != nil {
		return err
	}
	defer unlock()
	free, errFree := readHugepages("free_hugepages")
	promised, errPromised := readHugepages("resv_hugepages")
	total, err := readHugepages("nr_hugepages")
	if err := errors.Join(err, errFree, errPromised); err != nil {
		return err
	}
	need := mib / 2
	if err := writeReadable(filepath.Join(dir, "hugepages"), []byte(strconv.FormatUint(need, 10))); err != nil {
		return err
	}
	err = writeHugepages(total + need)
	now, errNow := readHugepages("nr_hugepages")
	if err == nil && errNow == nil && now >= total+need {
		return nil
	}
	if now > total {
		err = errors.Join(err, writeHugepages(total))
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, "hugepages")), errNow); err != nil {
		return err
	}
	if free >= promised+need {
		return nil
	}
	return fmt.Errorf("reserve %d pages of 2 MiB: the host has %d: %w", need, free-min(free, promised), errors.Join(err, unix.ENOMEM))
}

func writeHugepages(n uint64) error {
	return os.WriteFile(hugepages+"nr_hugepages", []byte(strconv.FormatUint(n, 10)), 0o644)
}

// returnHugepages gives back what reserveHugepages added for the guest of dir.
func returnHugepages(dir string) error {
	note := filepath.Join(dir, "hugepages")
	b, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	added, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return err
	}
	unlock, err := lockHugepages()
	if err != nil {
		return err
	}
	defer unlock()
	total, err := readHugepages("nr_hugepages")
	if err != nil {
		return err
	}
	return errors.Join(writeHugepages(total-min(total, added)), os.Remove(note))
}

// watcher waits for text in a file that somebody else writes.
type watcher struct {
	path    string
	notices *os.File // inotify
}

// watch prepares to wait for the file called name in dir, which need not
// exist yet.
func watch(dir, name string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &watcher{filepath.Join(dir, name), os.NewFile(uintptr(fd), "inotify")}, nil
}

// close ends the watch, and a wait that is under way.
func (w *watcher) close() { _ = w.notices.Close() }

// line waits until the file holds a line that contains text.
func (w *watcher) line(ctx context.Context, text string) error {
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	buf := make([]byte, 4096)
	for {
		b, err := os.ReadFile(w.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if i := strings.Index(string(b), text); i >= 0 && strings.Contains(string(b[i:]), "\n") {
			return nil
		}
		if _, err := w.notices.Read(buf); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return fmt.Errorf("no %q in %q: %w", text, tail(b), cause)
			}
			return fmt.Errorf("watch %s: %w", w.path, err)
		}
	}
}

// tail returns the end of what a guest wrote, for messages.
func tail(b []byte) string {
	const most = 400
	return string(b[max(0, len(b)-most):])
}
