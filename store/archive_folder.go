package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"snap/internal/sparse"
)

// folderArchive is a folder of this host as an Archive.
type folderArchive struct{ path string }

// openFolderArchive opens the folder at a path.
func openFolderArchive(ctx context.Context, path string, _ Options) (Archive, error) {
	path = filepath.Clean(path)
	return await(ctx, 0, func() (Archive, error) {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, unix.ENOTDIR), err == nil && !info.IsDir():
			return nil, &Error{"look into", path, ErrNotFolder}
		case err != nil:
			return nil, &Error{"look into", path, reason(err)}
		}
		return &folderArchive{path}, nil
	}, nil)
}

// Path implements Archive.
func (s *folderArchive) Path(name string) string {
	path := filepath.Join(s.path, name)
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// List implements Archive. It follows no symbolic links.
func (s *folderArchive) List(ctx context.Context, each func(Entry) error) error {
	found, err := await(ctx, 0, func() ([]Entry, error) { return s.entries(ctx) }, nil)
	if err != nil {
		return &Error{"look into", s.path, reason(err)}
	}
	for _, e := range found {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func (s *folderArchive) entries(ctx context.Context) ([]Entry, error) {
	dir, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	all, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var found []Entry
	for _, d := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !d.Type().IsRegular() || strings.Contains(d.Name(), partialInfix) {
			continue
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		found = append(found, Entry{d.Name(), info.Size(), info.ModTime()})
	}
	slices.SortFunc(found, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Open implements Archive.
func (s *folderArchive) Open(ctx context.Context, name string) (Reader, error) {
	path, err := s.fileName("open", name)
	if err != nil {
		return nil, err
	}
	return await(ctx, 0, func() (Reader, error) {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, &Error{"open", path, reason(err)}
		}
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = ErrNotRegular
		}
		if err != nil {
			_ = f.Close() // it was only looked at
			return nil, &Error{"open", path, reason(err)}
		}
		r := &interruptibleReader{ctx: ctx, r: f, path: path}
		return &archived{interruptibleReader: r, f: f, size: info.Size()}, nil
	}, func(r Reader) { _ = r.Close() })
}

// archived is a file of a folder.
type archived struct {
	*interruptibleReader
	f    *os.File
	size int64
}

// Size implements Reader.
func (a *archived) Size() int64 { return a.size }

// Close implements Reader.
func (a *archived) Close() error { return a.f.Close() }

// NextData implements sparse.Finder.
func (a *archived) NextData(off, end int64) (lo, hi int64, err error) {
	return sparse.NextData(a.f, off, end)
}

// Remove implements Archive.
func (s *folderArchive) Remove(ctx context.Context, name string) error {
	path, err := s.fileName("remove", name)
	if err != nil {
		return err
	}
	_, err = await(ctx, 0, func() (struct{}, error) {
		info, err := os.Lstat(path)
		if err == nil && !info.Mode().IsRegular() {
			err = ErrNotRegular
		}
		if err == nil {
			err = os.Remove(path)
		}
		return struct{}{}, err
	}, nil)
	if err != nil {
		return &Error{"remove", path, reason(err)}
	}
	return nil
}

// fileName returns the path of a file in the folder itself.
func (s *folderArchive) fileName(doing, name string) (string, error) {
	path := filepath.Join(s.path, name)
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return "", &Error{doing, path, ErrName}
	}
	return path, nil
}
