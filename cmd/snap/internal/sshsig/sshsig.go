// Package sshsig signs files as ssh-keygen -Y sign does, for ssh-keygen -Y verify
// (OpenSSH PROTOCOL.sshsig).
package sshsig

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// What a signature is made of (PROTOCOL.sshsig).
const (
	magic   = "SSHSIG"
	version = 1
	hashed  = "sha512"

	begin = "-----BEGIN SSH SIGNATURE-----\n"
	end   = "-----END SSH SIGNATURE-----\n"
	line  = 70 // characters
)

// ErrPassphrase says that a private key is encrypted.
var ErrPassphrase = errors.New("the private key is protected by a passphrase")

// ErrKey says that a file holds no private key that can sign.
var ErrKey = errors.New("no ssh private key that can sign")

// Signer has a private key. It is safe for concurrent use.
type Signer struct{ key ssh.Signer }

// Parse returns the signer of a private key, as ssh-keygen writes it, without a
// passphrase. The error is ErrPassphrase or ErrKey, and repeats nothing of b.
func Parse(b []byte) (*Signer, error) {
	key, err := ssh.ParsePrivateKey(b)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, ErrKey
	}
	return &Signer{key}, nil
}

// Fingerprint is how ssh-keygen -l names the key.
func (s *Signer) Fingerprint() string { return ssh.FingerprintSHA256(s.key.PublicKey()) }

// Sign returns the signature of a message, in its armour. Whoever verifies it names the
// same namespace.
func (s *Signer) Sign(namespace string, message []byte) ([]byte, error) {
	sum := sha512.Sum512(message)
	signed := append([]byte(magic), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Sum                       []byte
	}{namespace, "", hashed, sum[:]})...)
	sig, err := s.sign(signed)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.Fingerprint(), err)
	}
	blob := append([]byte(magic), ssh.Marshal(struct {
		Version                   uint32
		Key                       []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{version, s.key.PublicKey().Marshal(), namespace, "", hashed, ssh.Marshal(sig)})...)
	return armour(blob), nil
}

// sign signs with a hash that ssh-keygen takes: of RSA keys, not the SHA-1 that they
// are named after.
func (s *Signer) sign(b []byte) (*ssh.Signature, error) {
	if a, ok := s.key.(ssh.AlgorithmSigner); ok && s.key.PublicKey().Type() == ssh.KeyAlgoRSA {
		return a.SignWithAlgorithm(rand.Reader, b, ssh.KeyAlgoRSASHA512)
	}
	return s.key.Sign(rand.Reader, b)
}

func armour(blob []byte) []byte {
	text := base64.StdEncoding.EncodeToString(blob)
	var b bytes.Buffer
	b.WriteString(begin)
	for len(text) > 0 {
		n := min(line, len(text))
		b.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	b.WriteString(end)
	return b.Bytes()
}
