// Package agefile reads files that are encrypted with age (age-encryption.org/v1) at
// any offset, and tells apart why one can't be read: what it lies on fails, it was
// changed or cut short, or no key opens it.
package agefile

import (
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// Magic begins every such file that isn't armored (C2SP age.md, "Version line").
const Magic = "age-encryption.org/v1\n"

// ErrDamaged says that a file isn't what was encrypted: it is cut short, or some of its
// bytes are others.
var ErrDamaged = errors.New("what is encrypted is cut short or was changed")

// Open returns what is inside of the encrypted file of size bytes in r, which must be
// safe for concurrent use and is not closed; so is the result. There must be a key. The
// end of the file is decrypted before Open returns, so that its length is sure. The
// error is an *age.NoIdentityMatchError if no key opens it, ErrDamaged, or that of
// reading r.
func Open(r io.ReaderAt, size int64, keys ...age.Identity) (*io.SectionReader, error) {
	inside, n, err := age.DecryptReaderAt(source{r}, size, keys...)
	if err != nil {
		return nil, told(err)
	}
	return io.NewSectionReader(reader{inside}, 0, n), nil
}

// reader tells errors apart.
type reader struct{ r io.ReaderAt }

// ReadAt implements io.ReaderAt.
func (r reader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = told(err)
	}
	return n, err
}

// source marks its errors, so that they are known wherever they come out.
type source struct{ r io.ReaderAt }

// ReadAt implements io.ReaderAt.
func (s source) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.r.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

// sourceError is a failure to read an encrypted file.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// Unwrap returns why.
func (e *sourceError) Unwrap() error { return e.err }

// told is err with its class. Whatever is neither a key's failure nor that of what the
// file lies on was found in its bytes.
func told(err error) error {
	if e, ok := errors.AsType[*sourceError](err); ok {
		return e.err
	}
	if e, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return e
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}
