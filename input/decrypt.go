package input

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"snap/internal/agefile"
)

// ErrEncryption says that an encrypted file is damaged: it was cut short, or some of its
// bytes are not those that were encrypted.
var ErrEncryption = errors.New("damaged encryption")

// LockedError says that no key that was given opens an encrypted file.
type LockedError struct {
	Path string
	To   []string // what opens it, in words, as far as the file tells; it may name none
	Keys int      // how many were tried
}

func (e *LockedError) Error() string {
	to := "it doesn't say for which keys"
	if len(e.To) > 0 {
		to = "what opens it is " + strings.Join(e.To, ", or ")
	}
	switch e.Keys {
	case 0:
		return fmt.Sprintf("%s is encrypted, and no key was given: %s", e.Path, to)
	case 1:
		return fmt.Sprintf("%s is encrypted, and the key that was given doesn't open it: %s", e.Path, to)
	}
	return fmt.Sprintf("%s is encrypted, and none of the %d keys that were given opens it: %s", e.Path, e.Keys, to)
}

// Encrypted reports whether a file is encrypted with age, by how it begins.
func Encrypted(f *File) (bool, error) {
	head := make([]byte, len(agefile.Magic))
	n, err := f.ReadAt(head, 0)
	if n < len(head) {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return false, err
	}
	return bytes.Equal(head, []byte(agefile.Magic)), nil
}

// Decrypt returns f if it isn't encrypted with age, and else what is in it, by the first
// of the keys that opens it: it is decrypted as it is read, at any offset, and what is
// read is what was encrypted or fails with ErrEncryption. f belongs to the result, and
// stays open if Decrypt fails: with a *LockedError if no key opens it, ErrEncryption if
// it is damaged, or a *Refusal if nothing is in it.
func Decrypt(f *File, keys []Identity) (*File, error) {
	if is, err := Encrypted(f); err != nil || !is {
		return f, err
	}
	all := []age.Identity{nobody{}}
	for _, key := range keys {
		all = append(all, key.key)
	}
	inside, err := agefile.Open(f, f.Size(), all...)
	if e, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, &LockedError{Path: f.name, To: openers(e.StanzaTypes), Keys: len(keys)}
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt %s: %w", f.name, encryptionError(err))
	}
	if inside.Size() == 0 {
		r := empty(f.name)
		r.What = "encrypted, and empty inside"
		return nil, r
	}
	d := newFile(f.name, decrypted{inside, f})
	d.decrypted = true
	return d, nil
}

// nobody is a key that opens nothing: a file is looked into with it where there is no
// other.
type nobody struct{}

// Unwrap implements age.Identity.
func (nobody) Unwrap([]*age.Stanza) ([]byte, error) { return nil, age.ErrIncorrectIdentity }

// decrypted is what is inside of an encrypted file.
type decrypted struct {
	*io.SectionReader
	f *File
}

var _ Source = decrypted{}

// ReadAt implements Source.
func (d decrypted) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.SectionReader.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("decrypt %s at %#x: %w", d.f.name, off+int64(n), encryptionError(err))
	}
	return n, err
}

// Close implements Source.
func (d decrypted) Close() error { return d.f.Close() }

// encryptionError gives what is wrong with a file's bytes its class.
func encryptionError(err error) error {
	if errors.Is(err, agefile.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrEncryption, err)
	}
	return err
}

// maxOpeners bounds how many keys of a file are told of.
const maxOpeners = 5

// openers says in words what opens a file, by the types of its stanzas (C2SP age.md,
// "Recipient stanzas"), each once. A type that snap doesn't know is anybody's word.
func openers(types []string) []string {
	var out []string
	for _, t := range types {
		var s string
		switch t {
		case "X25519":
			s = "an age key (AGE-SECRET-KEY-1…)"
		case "mlkem768x25519":
			s = "a post-quantum age key (AGE-SECRET-KEY-PQ-1…)"
		case "ssh-ed25519", "ssh-rsa":
			s = "an " + t + " key"
		case "scrypt":
			s = "a passphrase, which only age asks for"
		default:
			s = fmt.Sprintf("what age calls %.40q, which snap doesn't know", t)
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) > maxOpeners {
		out = append(out[:maxOpeners], "others")
	}
	return out
}
