package input

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"snap/internal/agefile"
)

// IdentityError says that a file has no private key that opens encrypted files.
type IdentityError struct {
	Path string
	Why  string

	// Next is what an operator should do: a sentence in which FILE stands for the file.
	Next string
}

func (e *IdentityError) Error() string {
	_, name := place(e.Path)
	return fmt.Sprintf("no private key is read from %s: %s", name, e.Why)
}

// Identity is a private key, which opens what was encrypted to its public key. It is
// safe for concurrent use.
type Identity struct{ key age.Identity }

// Bounds on files with private keys. The longest keys are ssh-rsa's, some 13 KiB of
// 16384 bits.
const (
	maxIdentities   = 100
	maxIdentityFile = 1 << 20
)

// What to do about a file with private keys that can't be used.
const (
	nextKey = "name the file that age-keygen wrote, or a private key of ssh (ed25519 or RSA)"
	ageTell = "age -d -i FILE decrypts the dump without snap, and asks or has its plugin asked"
)

// ReadIdentities reads a file with private keys as age takes it after -i: age's own,
// one on each line, or a private key of ssh. It may be standard input, "-", or a pipe
// that this process was given. Nothing of it is in an error, which is an *IdentityError
// or that of reading it.
func ReadIdentities(ctx context.Context, path string) ([]Identity, error) {
	f, err := OpenText(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIdentityFile+1))
	if err != nil {
		return nil, err
	}
	defer clear(b)
	keys, err := parseIdentities(b)
	if e, ok := errors.AsType[*IdentityError](err); ok {
		e.Path = path
	}
	return keys, err
}

// parseIdentities is ReadIdentities of what is in the file.
func parseIdentities(b []byte) ([]Identity, error) {
	text := bytes.TrimSpace(b)
	switch {
	case len(b) > maxIdentityFile:
		return nil, &IdentityError{Why: fmt.Sprintf("it has more than %d bytes", maxIdentityFile), Next: nextKey}
	case bytes.HasPrefix(text, []byte(agefile.Magic)), bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE-----")):
		return nil, &IdentityError{Why: "it is encrypted with a passphrase itself", Next: "have age ask for the passphrase: --identity <(age -d FILE)"}
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return parseSSH(text)
	}
	var keys []Identity
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxIdentityFile+1)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, why := parseIdentity(line)
		switch {
		case why != "":
			e := &IdentityError{Why: fmt.Sprintf("line %d %s", number, why), Next: nextKey}
			if strings.HasPrefix(line, "AGE-PLUGIN-") {
				e.Next = ageTell
			}
			return nil, e
		case len(keys) == maxIdentities:
			return nil, &IdentityError{Why: fmt.Sprintf("it has more than %d", maxIdentities), Next: "name a file with the one that is needed"}
		}
		keys = append(keys, Identity{key})
	}
	if len(keys) == 0 {
		return nil, &IdentityError{Why: "there is none in it", Next: nextKey}
	}
	return keys, nil
}

// parseIdentity reads a private key of age's, or says why it is none.
func parseIdentity(line string) (age.Identity, string) {
	var key age.Identity
	var err error
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		key, err = age.ParseX25519Identity(line)
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		key, err = age.ParseHybridIdentity(line)
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return nil, "is for a plugin of age's, and snap runs none"
	case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
		return nil, "is a public key, and the private one is wanted"
	default:
		return nil, "is no key of age's"
	}
	if err != nil {
		return nil, "has a mistake in it"
	}
	return key, ""
}

// parseSSH reads a private key of ssh.
func parseSSH(text []byte) ([]Identity, error) {
	key, err := agessh.ParseIdentity(text)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, &IdentityError{
			Why:  "it is an ssh key with a passphrase, which snap doesn't ask for",
			Next: "take the passphrase off a copy of it: cp FILE COPY && ssh-keygen -p -N '' -f COPY, and name that",
		}
	}
	if err != nil {
		return nil, &IdentityError{Why: "it is no ssh key that age uses", Next: nextKey}
	}
	return []Identity{{key}}, nil
}
