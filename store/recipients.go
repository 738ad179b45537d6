package store

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// ErrRecipient says that a text is no public key that files can be encrypted to, or
// that keys can't be used together.
var ErrRecipient = errors.New("no key that files can be encrypted to")

// Bounds on recipients. Post-quantum keys are the longest of age's, 1,959 characters;
// sshd reads lines of 8 KiB.
const (
	maxRecipients    = 100
	maxRecipientLine = 8 << 10
	maxRecipientFile = 1 << 20
)

// Recipient is somebody to whom files are encrypted: a public key. It is safe for
// concurrent use.
type Recipient struct {
	key  age.Recipient
	name string
}

// String returns how accounts call the recipient: an age key in full (age1…); of a
// post-quantum one the hash of its text, as printf %s KEY | sha256sum prints it; an
// ssh key's type and fingerprint, as ssh-keygen -l prints them.
func (r Recipient) String() string { return r.name }

// ParseRecipient reads a public key as age takes it after -r: age1… (X25519), age1pq1…
// (post-quantum), or ssh-ed25519 and ssh-rsa as they stand in authorized_keys. The
// error is ErrRecipient and doesn't have the text, which may be a private key.
func ParseRecipient(text string) (Recipient, error) {
	fail := func(why string) (Recipient, error) { return Recipient{}, fmt.Errorf("%w: %s", ErrRecipient, why) }
	text = strings.TrimSpace(text)
	switch {
	case len(text) > maxRecipientLine:
		return fail(fmt.Sprintf("it has more than %d characters", maxRecipientLine))
	case strings.HasPrefix(text, "AGE-SECRET-KEY-"), strings.HasPrefix(text, "AGE-PLUGIN-"), strings.HasPrefix(text, "-----BEGIN"):
		return fail("it is a private key, which has no place on the host of the guest")
	case strings.HasPrefix(text, "age1pq1"):
		key, err := age.ParseHybridRecipient(text)
		if err != nil {
			return fail("the age1pq1 key has a mistake in it")
		}
		return Recipient{key, fmt.Sprintf("age1pq1 sha256:%x", sha256.Sum256([]byte(text)))}, nil
	case strings.HasPrefix(text, "age1") && strings.Count(text, "1") > 1:
		return fail("it is of a plugin of age's, and snap runs none")
	case strings.HasPrefix(text, "age1"):
		key, err := age.ParseX25519Recipient(text)
		if err != nil {
			return fail("the age1 key has a mistake in it")
		}
		return Recipient{key, key.String()}, nil
	}
	return parseSSH(text)
}

// parseSSH reads a public key of ssh.
func parseSSH(text string) (Recipient, error) {
	fail := func(why string) (Recipient, error) { return Recipient{}, fmt.Errorf("%w: %s", ErrRecipient, why) }
	if !strings.HasPrefix(text, "ssh-") && !strings.HasPrefix(text, "ecdsa-") && !strings.HasPrefix(text, "sk-") {
		return fail("it begins with neither age1 nor ssh-ed25519 nor ssh-rsa")
	}
	public, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	switch {
	case err != nil:
		return fail("the ssh key has a mistake in it")
	case len(rest) > 0:
		return fail("it has more than one line")
	case public.Type() != ssh.KeyAlgoED25519 && public.Type() != ssh.KeyAlgoRSA:
		return fail("of ssh keys there can be ssh-ed25519 and ssh-rsa")
	}
	key, err := agessh.ParseRecipient(text)
	if err != nil {
		return fail("the ssh key has a mistake in it, or is shorter than 2048 bits")
	}
	return Recipient{key, public.Type() + " " + ssh.FingerprintSHA256(public)}, nil
}

// ReadRecipients reads a list of public keys as age takes it after -R: one on each
// line; empty lines, and lines that begin with #, are passed over. A line that is no
// such key is an error, so that nobody who is listed is left out.
func ReadRecipients(r io.Reader) ([]Recipient, error) {
	var out []Recipient
	limited := &io.LimitedReader{R: r, N: maxRecipientFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxRecipientLine+2)
	number := 0
	for lines.Scan() {
		number++
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := ParseRecipient(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if len(out) == maxRecipients {
			return nil, fmt.Errorf("line %d: %w: there are more than %d", number, ErrRecipient, maxRecipients)
		}
		out = append(out, key)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: %w: it has more than %d characters", number+1, ErrRecipient, maxRecipientLine)
	case err != nil:
		return nil, err
	case limited.N == 0:
		return nil, fmt.Errorf("%w: the list has more than %d bytes", ErrRecipient, maxRecipientFile)
	case len(out) == 0:
		return nil, fmt.Errorf("%w: there is none in the list", ErrRecipient)
	}
	return out, nil
}
