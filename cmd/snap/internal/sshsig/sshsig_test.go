package sshsig

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// key makes a private key with ssh-keygen.
func key(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-f", path}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %v: %v\n%s", args, err, out)
	}
	return path
}

// TestKeygenVerifies: ssh-keygen takes what is signed by any kind of key, and nothing else
// for it.
func TestKeygenVerifies(t *testing.T) {
	message := []byte("{\n  \"snap\": \"1.0\"\n}\n")
	for _, kind := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa", "-b", "384"}, {"-t", "rsa", "-b", "2048"}} {
		path := key(t, append(kind, "-N", "")...)
		private, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Parse(private)
		if err != nil {
			t.Fatalf("%v: %v", kind, err)
		}
		sig, err := s.Sign("snap", message)
		if err != nil {
			t.Fatalf("%v: %v", kind, err)
		}
		dir := t.TempDir()
		allowed, file := filepath.Join(dir, "allowed"), filepath.Join(dir, "sig")
		for name, b := range map[string][]byte{allowed: append([]byte("host "), public...), file: sig} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		verify := func(namespace string, message []byte) error {
			cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "host", "-n", namespace, "-s", file)
			cmd.Stdin = bytes.NewReader(message)
			return cmd.Run()
		}
		if err := verify("snap", message); err != nil {
			t.Errorf("%v: ssh-keygen refuses the signature: %v\n%s", kind, err, sig)
		}
		if verify("file", message) == nil || verify("snap", append(message, ' ')) == nil {
			t.Errorf("%v: ssh-keygen takes it for another namespace, or another message", kind)
		}
		out, err := exec.Command("ssh-keygen", "-l", "-f", path).Output()
		if err != nil || !bytes.Contains(out, []byte(" "+s.Fingerprint()+" ")) {
			t.Errorf("%v: the fingerprint is %s; ssh-keygen says %s, %v", kind, s.Fingerprint(), out, err)
		}
	}
}

// TestNoKey: what can't sign is told apart.
func TestNoKey(t *testing.T) {
	locked, err := os.ReadFile(key(t, "-t", "ed25519", "-N", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(locked); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a key with a passphrase: %v; want ErrPassphrase", err)
	}
	for _, text := range []string{"", "ssh-ed25519 AAAA", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("%q: %v; want ErrKey", text, err)
		}
	}
}
