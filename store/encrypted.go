package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"filippo.io/age"

	"snap/internal/agefile"
)

// EncryptedSuffix ends the names of files that are encrypted.
const EncryptedSuffix = ".age"

// ErrDecrypt says that what was encrypted doesn't decrypt to what it was: the place
// gave other bytes back, or a processor or memory of the host is faulty.
var ErrDecrypt = errors.New("what was encrypted can't be decrypted again")

// Encrypt returns p with every file encrypted with age to all of the recipients, any
// of whom can decrypt it; those with post-quantum keys can't be mixed with others. The
// error is ErrRecipient.
//
// What Reopen of such a file gives is what was written, decrypted from what the place
// has. No private key is needed for that: the file's own key, which the recipients'
// keys protect, is kept in memory until the file is committed or aborted, and nothing
// in the file is for anybody but the recipients. Sum and Reopen end the file:
// a Write after them fails. Sum is of what the place has, the encrypted bytes. Files
// have no holes and can't be written in any order.
func Encrypt(p Place, to ...Recipient) (Place, error) {
	if len(to) == 0 || len(to) > maxRecipients {
		return nil, fmt.Errorf("%w: %d of them; there can be 1 to %d", ErrRecipient, len(to), maxRecipients)
	}
	e := &encrypted{Place: p, to: to}
	var header counter
	if _, _, err := e.begin(&header); err != nil {
		return nil, err
	}
	e.header = uint64(header)
	return e, nil
}

// Recipients returns to whom files in p are encrypted, nil if they aren't.
func Recipients(p Place) []Recipient {
	if e, ok := p.(*encrypted); ok {
		return slices.Clone(e.to)
	}
	return nil
}

// Stored returns how many bytes the place has of a file to which so many were written:
// more if it is encrypted. Such a file ends with it.
func Stored(f File, written uint64) uint64 {
	e, ok := f.(*encryptedFile)
	if !ok {
		return written
	}
	_ = e.end() // which Commit tells of
	return e.out.total
}

// InClear returns the place in which p's encrypted files lie, for what lies beside them
// and must not be encrypted; p itself if it encrypts nothing.
func InClear(p Place) Place {
	if e, ok := p.(*encrypted); ok {
		return e.Place
	}
	return p
}

// encrypted is a place whose files are encrypted.
type encrypted struct {
	Place
	to     []Recipient
	header uint64 // bytes ahead of what is encrypted
}

// What age makes of a file (C2SP age.md, "Payload").
const (
	ageChunk    = 64 << 10 // of what is encrypted, each with a tag
	ageOverhead = 16       // bytes of the tag
)

// Space implements Place. It is for what is written, which takes less than what comes
// of it.
func (e *encrypted) Space(ctx context.Context) (Space, error) {
	s, err := e.Place.Space(ctx)
	if err != nil || !s.Known {
		return s, err
	}
	s.Sure, s.Most = e.inside(s.Sure), e.inside(s.Most)
	return s, nil
}

// inside is how many bytes can be encrypted to a file of n.
func (e *encrypted) inside(n uint64) uint64 {
	if n == math.MaxUint64 { // which is no number
		return n
	}
	n -= min(n, e.header)
	tags := (n + ageChunk + ageOverhead - 1) / (ageChunk + ageOverhead) * ageOverhead
	return n - min(n, tags)
}

// Create implements Place.
func (e *encrypted) Create(ctx context.Context, name string) (File, error) {
	f, err := e.Place.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &blocks{w: f}
	w, key, err := e.begin(out)
	if err != nil {
		return nil, errors.Join(err, f.Abort())
	}
	return &encryptedFile{file: f, out: out, w: w, key: key, header: int64(e.header)}, nil
}

// begin begins a file in w, and returns its key.
func (e *encrypted) begin(w io.Writer) (io.WriteCloser, *keeper, error) {
	key := &keeper{Recipient: e.to[0].key}
	all := []age.Recipient{key}
	for _, r := range e.to[1:] {
		all = append(all, r.key)
	}
	inside, err := age.Encrypt(w, all...)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	return inside, key, nil
}

// keeper is a recipient with a memory: it keeps the file's key when that is encrypted
// to the recipient, and changes nothing of what comes of it.
type keeper struct {
	age.Recipient
	key []byte
}

var _ age.RecipientWithLabels = (*keeper)(nil)

// WrapWithLabels implements age.RecipientWithLabels.
func (k *keeper) WrapWithLabels(fileKey []byte) ([]*age.Stanza, []string, error) {
	k.key = slices.Clone(fileKey)
	if r, ok := k.Recipient.(age.RecipientWithLabels); ok {
		return r.WrapWithLabels(fileKey)
	}
	s, err := k.Wrap(fileKey)
	return s, nil, err
}

// forget forgets the key.
func (k *keeper) forget() {
	clear(k.key)
	k.key = nil
}

// encryptedFile is a file that is encrypted on its way to another one.
type encryptedFile struct {
	file File
	out  *blocks
	w    io.WriteCloser // encrypts to out
	key  *keeper

	header int64 // bytes ahead of what is encrypted

	err   error // of a write, or of the end
	ended bool  // nothing can be written any more
}

var (
	_ HeldWriter = (*encryptedFile)(nil)
	_ Sized      = (*encryptedFile)(nil)
)

// Write implements File.
func (f *encryptedFile) Write(p []byte) (int, error) {
	switch {
	case f.err != nil:
		return 0, f.err
	case f.ended:
		return 0, os.ErrClosed
	}
	n, err := f.w.Write(p)
	f.err = err
	return n, err
}

// Held implements HeldWriter.
func (f *encryptedFile) Held(held bool) {
	if h, ok := f.file.(HeldWriter); ok {
		h.Held(held)
	}
}

// Expect implements Sized.
func (f *encryptedFile) Expect(size int64) {
	s, ok := f.file.(Sized)
	if !ok {
		return
	}
	tags := (size/ageChunk + 1) * ageOverhead
	if size > math.MaxInt64-tags-f.header {
		size = math.MaxInt64 - tags - f.header
	}
	s.Expect(size + tags + f.header)
}

// end writes what is left of the file. Nothing can follow it.
func (f *encryptedFile) end() error {
	if f.err != nil || f.ended {
		return f.err
	}
	f.ended = true
	if f.err = f.w.Close(); f.err == nil {
		f.err = f.out.flush()
	}
	return f.err
}

// Reopen implements File.
func (f *encryptedFile) Reopen(ctx context.Context) (io.ReaderAt, int64, error) {
	if err := f.end(); err != nil {
		return nil, 0, err
	}
	r, size, err := f.file.Reopen(ctx)
	if err != nil {
		return nil, 0, err
	}
	inside, err := agefile.Open(r, size, age.NewInjectedFileKeyIdentity(f.key.key))
	if err != nil {
		return nil, 0, undone(err)
	}
	return readDecrypted{inside}, inside.Size(), nil
}

// KeptUntil implements KeptFile.
func (f *encryptedFile) KeptUntil() time.Time { return KeptUntil(f.file) }

// Sum implements File.
func (f *encryptedFile) Sum() string {
	_ = f.end() // which Commit tells of
	return f.file.Sum()
}

// Commit implements File.
func (f *encryptedFile) Commit(ctx context.Context) error {
	if err := f.end(); err != nil {
		return errors.Join(fmt.Errorf("commit what was encrypted: %w", err), f.Abort())
	}
	f.key.forget()
	return f.file.Commit(ctx)
}

// Abort implements File.
func (f *encryptedFile) Abort() error {
	f.ended = true
	f.key.forget()
	return f.file.Abort()
}

// readDecrypted reads back what was written.
type readDecrypted struct{ *io.SectionReader }

// ReadAt implements io.ReaderAt.
func (r readDecrypted) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.SectionReader.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = undone(err)
	}
	return n, err
}

// undone is err as what it is of a file that was just encrypted.
func undone(err error) error {
	if errors.Is(err, agefile.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDecrypt, err)
	}
	return err
}

// counter counts what is written.
type counter uint64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
