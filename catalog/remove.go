package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"snap/manifest"
	"snap/store"
)

// ErrChanged is of a file that isn't any more what the catalogue has.
var ErrChanged = errors.New("it has changed since it was looked at")

// Remove removes a dump, then its manifest and its signature: what an interrupted removal leaves is a
// manifest without a dump, which says what it was of, and never guest memory that
// nothing accounts for. It removes nothing, with ErrChanged, if either isn't what e
// has; e must be of state Dump. The error is store.ErrKept if the place keeps one of
// them. gone is whether the dump is there no more.
func Remove(ctx context.Context, a store.Archive, e *Entry) (gone bool, err error) {
	if e.State != Dump {
		return false, fmt.Errorf("remove %s: %w: it is no dump with a manifest", e.Name, ErrChanged)
	}
	if err := unchanged(ctx, a, e); err != nil {
		return false, fmt.Errorf("remove %s: %w", e.Name, err)
	}
	if err := a.Remove(ctx, e.Name); err != nil {
		return false, err
	}
	if err := a.Remove(ctx, e.Name+manifest.Suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	if e.Account.SignedBy == "" {
		return true, nil
	}
	if err := a.Remove(ctx, e.Name+manifest.SignatureSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, nil
}

// unchanged reports whether a dump and its manifest are still those of the catalogue.
func unchanged(ctx context.Context, a store.Archive, e *Entry) error {
	doc, err := content(ctx, a, e.Name+manifest.Suffix, manifest.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: its manifest is gone", ErrChanged)
	}
	if err != nil {
		return err
	}
	r, err := a.Open(ctx, e.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Size() != e.Size || sha256.Sum256(doc) != e.sum {
		return ErrChanged
	}
	return nil
}
