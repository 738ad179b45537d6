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
	root := "/var/lib/snap-lab"
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
// of one name apart.
func makeDir(c *Connection, name string) (string, error) {
	dir, err := c.dir(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("%s exists: end that guest with scripts/lab down --name %s --connect %s", dir, name, c.Kind)
	}
	if err != nil {
		return "", err
	}
	return dir, errors.Join(os.Chmod(dir, 0o755), c.User.own(dir))
}

// writeReadable writes a file that every user may read, whatever the umask.
func writeReadable(path string, b []byte) error {
	return errors.Join(os.WriteFile(path, b, 0o644), os.Chmod(path, 0o644))
}

// reserveHugepages makes sure that so much memory is free in 2 MiB pages.
func reserveHugepages(mib uint64) error {
	const root = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	read := func(name string) (uint64, error) {
		b, err := os.ReadFile(root + name)
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	total, err := read("nr_hugepages")
	if err != nil {
		return fmt.Errorf("2 MiB pages on this host: %w", err)
	}
	free, err := read("free_hugepages")
	if err != nil {
		return err
	}
	need := mib / 2
	if free >= need {
		return nil
	}
	if err := os.WriteFile(root+"nr_hugepages", []byte(strconv.FormatUint(total+need-free, 10)), 0o644); err != nil {
		return fmt.Errorf("reserve 2 MiB pages: %w", err)
	}
	if free, err = read("free_hugepages"); err != nil || free < need {
		return fmt.Errorf("reserve %d pages of 2 MiB: the host has %d free: %w", need, free, err)
	}
	return nil
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
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &watcher{filepath.Join(dir, name), os.NewFile(uintptr(fd), "inotify")}, nil
}

// Close ends the watch.
func (w *watcher) Close() error { return w.notices.Close() }

// line waits until the file holds a line that contains text.
func (w *watcher) line(ctx context.Context, text string) error {
	stop := context.AfterFunc(ctx, func() { w.notices.Close() })
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
