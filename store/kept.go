package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// KeptError says that a file did not get to its place, and that it lies elsewhere,
// whole.
type KeptError struct {
	Path string // where it is
	Err  error  // why it isn't where it was to be
}

func (e *KeptError) Error() string { return fmt.Sprintf("%v; it is kept as %s", e.Err, e.Path) }

// Unwrap returns why.
func (e *KeptError) Unwrap() error { return e.Err }

// KeepLocal returns p with a copy of each file in another place, local, for as long as
// it takes to get to p: what doesn't get there is finished in local, and Commit's error is
// a *KeptError. A copy that can't be written is given up, and note is told, if it isn't nil.
func KeepLocal(p, local Place, note func(text string)) Place {
	return &keeping{Place: p, local: local, note: note}
}

// keeping is such a place.
type keeping struct {
	Place
	local Place
	note  func(string)
}

// Check implements Place.
func (k *keeping) Check(ctx context.Context, name string) error {
	if err := k.Place.Check(ctx, name); err != nil {
		return err
	}
	return k.local.Check(ctx, name)
}

// Space implements Place. It is that of the copies.
func (k *keeping) Space(ctx context.Context) (Space, error) { return k.local.Space(ctx) }

// ReadsBack implements Place: the copy proves nothing of what p has.
func (k *keeping) ReadsBack() bool { return k.Place.ReadsBack() }

// Create implements Place.
func (k *keeping) Create(ctx context.Context, name string) (File, error) {
	f, err := k.Place.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	kept, err := k.local.Create(ctx, name)
	if err != nil {
		return nil, errors.Join(err, f.Abort())
	}
	return &keptFile{File: f, kept: kept, ctx: ctx, path: k.local.Path(name), note: k.note}, nil
}

// keptFile is a file with a copy.
type keptFile struct {
	File
	kept   File // nil once it was given up
	ctx    context.Context
	path   string // of the copy
	note   func(string)
	failed error // why File was given up
	closed bool
}

var (
	_ HeldWriter = (*keptFile)(nil)
	_ Sized      = (*keptFile)(nil)
)

// tell tells what the one who writes isn't.
func (f *keptFile) tell(format string, args ...any) {
	if f.note != nil {
		f.note(fmt.Sprintf(format, args...))
	}
}

// Write implements io.Writer.
func (f *keptFile) Write(p []byte) (int, error) {
	if f.closed {
		return 0, os.ErrClosed
	}
	if f.kept != nil {
		if _, err := f.kept.Write(p); err != nil {
			f.tell("no copy is kept: %v", errors.Join(err, f.kept.Abort()))
			f.kept = nil
		}
	}
	if f.failed == nil {
		n, err := f.File.Write(p)
		if err == nil || f.kept == nil || f.ctx.Err() != nil {
			return n, err
		}
		f.failed = errors.Join(err, f.File.Abort())
		f.tell("%v; the rest goes to %s alone", f.failed, f.path)
	}
	if f.kept == nil {
		return 0, f.failed
	}
	return len(p), nil
}

// KeptUntil implements KeptFile. The copy isn't kept by anybody.
func (f *keptFile) KeptUntil() time.Time {
	if f.failed != nil {
		return time.Time{}
	}
	return KeptUntil(f.File)
}

// Expect implements Sized.
func (f *keptFile) Expect(size int64) {
	if s, ok := f.File.(Sized); ok {
		s.Expect(size)
	}
}

// Held implements HeldWriter.
func (f *keptFile) Held(held bool) {
	for _, each := range []File{f.File, f.kept} {
		if h, ok := each.(HeldWriter); ok {
			h.Held(held)
		}
	}
}

// Sum implements File.
func (f *keptFile) Sum() string {
	if f.failed != nil && f.kept != nil {
		return f.kept.Sum()
	}
	return f.File.Sum()
}

// Commit implements File.
func (f *keptFile) Commit(ctx context.Context) error {
	if f.closed {
		return os.ErrClosed
	}
	if f.failed == nil {
		err := f.File.Commit(ctx)
		if err == nil || f.kept == nil || ctx.Err() != nil {
			return errors.Join(err, f.Abort())
		}
		f.failed = err
	}
	f.closed = true
	if f.kept == nil {
		return f.failed
	}
	if err := f.kept.Commit(ctx); err != nil {
		return errors.Join(f.failed, err)
	}
	return &KeptError{Path: f.path, Err: f.failed}
}

// Abort implements File: the copy goes, too.
func (f *keptFile) Abort() error {
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.File.Abort()
	if f.kept != nil {
		err = errors.Join(err, f.kept.Abort())
	}
	return err
}
