package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"

	"snap/dump"
	"snap/header"
	"snap/input"
	"snap/manifest"
	"snap/phys"
)

// SourceAccount is what a dump that is there already says of itself: the manifest
// that was written with it. It is the dump's word, and as trustworthy as that.
type SourceAccount struct {
	// Where it was found, for people; empty if there is none.
	Where string

	// Manifest is the account; nil if there is none, or none that could be used.
	Manifest *manifest.Manifest

	// Document is the account as it was found.
	Document []byte

	// Unfit says why nothing that it says of the dump is to be believed: it can't be
	// read, is of another file, or contradicts the dump or itself. It is nil if it
	// fits, and if there is none.
	Unfit error
}

// Fits reports whether there is an account of the dump that may be believed.
func (a *SourceAccount) Fits() bool { return a.Manifest != nil && a.Unfit == nil }

// Opener opens a file by how somebody calls it, a path or a URL; input.Open is one.
type Opener func(name string) (*input.File, error)

// Inside returns the account that a dump carries.
func Inside(f *dump.File) *SourceAccount {
	a := &SourceAccount{Document: f.Metadata()}
	if len(a.Document) == 0 {
		return a
	}
	a.Where = "inside the dump"
	a.read(f)
	return a
}

// ReadAccount returns the account of the dump f, which was opened at path: the one
// inside of it, else the one beside it, if that has the hash of the file. Comparing
// that reads all of the file, of which progress, that may be nil, tells how far it
// is. open opens both. The error is of reading the file.
func ReadAccount(ctx context.Context, f *dump.File, path string, open Opener, progress *dump.Progress) (*SourceAccount, error) {
	if a := Inside(f); a.Where != "" {
		return a, nil
	}
	a := &SourceAccount{}
	beside := ManifestOf(path)
	doc, err := readSmall(open, beside)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	a.Where = "beside the dump, in " + filepath.Base(beside)
	if err != nil {
		a.Unfit = err
		return a, nil
	}
	a.Document = doc
	a.read(f)
	if a.Unfit != nil {
		return a, nil
	}
	sum, err := hashFile(ctx, open, path, a.Manifest.Bytes.Written, progress)
	if err != nil {
		return nil, err
	}
	if sum == "" || a.Manifest.SHA256 != sum {
		a.Manifest, a.Document, a.Unfit = nil, nil, errors.New("it is of another file: its length or SHA-256 differs")
	}
	return a, nil
}

// read decodes the document and holds it against the dump.
func (a *SourceAccount) read(f *dump.File) {
	if a.Manifest, a.Unfit = manifest.Decode(a.Document); a.Unfit == nil {
		a.Unfit = fits(a.Manifest, f)
	}
}

// tableOf returns the address of the page table that a header names, without what else a
// CR3 has: with PAE the table is aligned to 32 bytes.
func tableOf(h *header.Header) phys.Addr {
	if h.Width == header.Width32 && h.PaeEnabled == 1 {
		return h.DirectoryTableBase &^ 31
	}
	return h.DirectoryTableBase &^ (phys.PageSize - 1)
}

// fits holds what an account says of a dump against the dump.
func fits(m *manifest.Manifest, f *dump.File) error {
	h, err := f.Header()
	if err != nil {
		return fmt.Errorf("the dump's header can't be read: %w", err)
	}
	p := m.Pages
	for _, c := range []struct {
		what      string
		have, say uint64
	}{
		{"pages in the file", f.RAM().Pages(), p.Written},
		{"type of the dump", uint64(h.DumpType), uint64(m.Header.DumpType)},
		{"length of the expanded dump", uint64(f.Size()), m.Bytes.Dump},
		{"System CR3", uint64(tableOf(h)), uint64(m.Guest.SystemCR3)},
		{"address of the KDBG", uint64(h.Width.Address(h.KdDebuggerDataBlock)), uint64(m.Guest.KDBG)},
	} {
		if c.say == 0 && m.Guest.Windows == "" && c.have != 0 {
			continue // of a damaged guest, which was converted before, nothing is known
		}
		if c.have != c.say {
			return fmt.Errorf("it is not of this dump: the %s is %#x, and it says %#x", c.what, c.have, c.say)
		}
	}
	if p.Excluded > math.MaxUint64-p.Written || p.Total != p.Written+p.Excluded ||
		p.Zero > p.Written || p.Unreadable > p.Zero || p.Unpopulated > p.Zero || p.ChangedWhileReading > p.Written {
		return errors.New("it contradicts itself: its numbers of pages don't add up")
	}
	left := p.Unreadable
	for _, g := range m.Gaps {
		if g.Pages > left || g.Pages == 0 || !f.RAM().Covers(phys.Addr(g.Address), g.Pages<<phys.PageShift) {
			return errors.New("it contradicts itself: its gaps are not its unreadable pages")
		}
		left -= g.Pages
	}
	if len(m.Gaps) > dump.MaxGaps {
		return fmt.Errorf("it lists %d gaps; there can be %d", len(m.Gaps), dump.MaxGaps)
	}
	return nil
}

// ReadManifest reads a file that holds a manifest, and sees that it is one.
func ReadManifest(open Opener, path string) ([]byte, error) {
	doc, err := readSmall(open, path)
	if err == nil {
		_, err = manifest.Decode(doc)
	}
	if err != nil {
		return nil, fmt.Errorf("read the account %s: %w", path, err)
	}
	return doc, nil
}

// readSmall reads a file that holds a manifest.
func readSmall(open Opener, path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, 0, manifest.MaxSize+1)) // one more than Decode takes
}

// hashFile returns the SHA-256 of a regular file of that size, as sha256sum prints
// it; "" of any other, which need not be read for that.
func hashFile(ctx context.Context, open Opener, path string, size uint64, progress *dump.Progress) (string, error) {
	f, err := open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if uint64(f.Size()) != size {
		return "", nil
	}
	if progress == nil {
		progress = new(dump.Progress)
	}
	progress.Total.Store(size)
	h := sha256.New()
	buf := make([]byte, 1<<20)
	r := io.NewSectionReader(f, 0, f.Size())
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		progress.Done.Add(uint64(n))
		switch {
		case errors.Is(err, io.EOF):
			return hex.EncodeToString(h.Sum(nil)), nil
		case err != nil:
			return "", err
		}
	}
}
