package input

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

// ageTool runs a program with content as its input, and returns what it prints.
func ageTool(t *testing.T, content []byte, name string, args ...string) []byte {
	t.Helper()
	var messages bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(content), &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, messages.Bytes())
	}
	return out
}

// ageKey has age-keygen make a key: its file, and the public key.
func ageKey(t *testing.T) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key")
	ageTool(t, nil, "age-keygen", "-o", path)
	return path, strings.TrimSpace(string(ageTool(t, nil, "age-keygen", "-y", path)))
}

// sshKey has ssh-keygen make a key: its file, and the public key.
func sshKey(t *testing.T, args ...string) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "id")
	ageTool(t, nil, "ssh-keygen", append([]string{"-q", "-N", "", "-f", path}, args...)...)
	b, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(b))
}

func identities(t *testing.T, path string) []Identity {
	t.Helper()
	keys, err := ReadIdentities(t.Context(), path)
	if err != nil {
		t.Fatalf("ReadIdentities(%s) failed: %v", path, err)
	}
	return keys
}

func saved(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.dmp.age")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDecrypt: what the program age encrypted is read at any offset with any of the
// keys, and is closed with what it was opened as.
func TestDecrypt(t *testing.T) {
	want := make([]byte, 3<<20+123)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(want)
	native, public := ageKey(t)
	ed, edPublic := sshKey(t, "-t", "ed25519")
	rsa, rsaPublic := sshKey(t, "-t", "rsa", "-b", "2048")
	pem, pemPublic := sshKey(t, "-t", "rsa", "-b", "2048", "-m", "PEM")
	path := saved(t, ageTool(t, want, "age", "-r", public, "-r", edPublic, "-r", rsaPublic, "-r", pemPublic))
	other, _ := ageKey(t)
	for name, keys := range map[string][]Identity{
		"age": identities(t, native), "ssh-ed25519": identities(t, ed), "ssh-rsa": identities(t, rsa), "ssh-rsa, PEM": identities(t, pem),
		"the second": append(identities(t, other), identities(t, native)...),
	} {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Decrypt(f, keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d.Size() != int64(len(want)) || d.Name() != path || !d.Decrypted() {
			t.Errorf("%s: %d bytes of %s, decrypted %v; want %d of %s", name, d.Size(), d.Name(), d.Decrypted(), len(want), path)
		}
		for _, at := range [][2]int{{0, 1}, {65535, 2}, {1 << 20, 1 << 20}, {len(want) - 5, 5}, {0, len(want)}} {
			got := make([]byte, at[1])
			if n, err := d.ReadAt(got, int64(at[0])); n != len(got) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want[at[0]:at[0]+at[1]]) {
				t.Errorf("%s: ReadAt of %d bytes at %d = %d, %v", name, at[1], at[0], n, err)
			}
		}
		if n, err := d.ReadAt(make([]byte, 2), d.Size()-1); n != 1 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: ReadAt across the end = %d, %v; want 1, EOF", name, n, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: the file itself is open still: %v", name, err)
		}
	}
}

// TestDecryptPostQuantum reads what is encrypted to a post-quantum key.
func TestDecryptPostQuantum(t *testing.T) {
	key, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := age.Encrypt(&file, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "secret"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	keys, err := parseIdentities([]byte(key.String() + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decrypt(openFile(t, saved(t, file.Bytes())), keys)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size())); string(got) != "secret" || err != nil {
		t.Errorf("%q, %v; want what was encrypted", got, err)
	}
}

// TestDecryptNothing: what isn't encrypted is the file itself.
func TestDecryptNothing(t *testing.T) {
	for _, content := range []string{"PAGEDU64 and more than a line of it", "short"} {
		f := openFile(t, saved(t, []byte(content)))
		if d, err := Decrypt(f, nil); d != f || err != nil {
			t.Errorf("Decrypt of %q = %p, %v; want the file itself", content, d, err)
		}
	}
}

// TestDecryptLocked: without the right key it is told what would open it.
func TestDecryptLocked(t *testing.T) {
	_, public := ageKey(t)
	_, edPublic := sshKey(t, "-t", "ed25519")
	other, _ := ageKey(t)
	path := saved(t, ageTool(t, []byte("secret"), "age", "-r", public, "-r", public, "-r", edPublic))
	for _, tt := range []struct {
		keys []Identity
		want []string
	}{
		{nil, []string{"no key was given", "an age key", "an ssh-ed25519 key"}},
		{identities(t, other), []string{"the key that was given doesn't open it", "an age key", "an ssh-ed25519 key"}},
		{append(identities(t, other), identities(t, other)...), []string{"none of the 2 keys"}},
	} {
		f := openFile(t, path)
		_, err := Decrypt(f, tt.keys)
		e, ok := errors.AsType[*LockedError](err)
		if !ok || e.Keys != len(tt.keys) {
			t.Errorf("with %d keys: %v; want a LockedError", len(tt.keys), err)
			continue
		}
		for _, want := range tt.want {
			if strings.Count(err.Error(), want) != 1 {
				t.Errorf("with %d keys: %v; want %q once", len(tt.keys), err, want)
			}
		}
		if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
			t.Errorf("the file isn't open any more: %v", err)
		}
	}
}

// TestDecryptDamaged: whatever byte of a file is another one, and wherever it was cut,
// nothing wrong is read of it.
func TestDecryptDamaged(t *testing.T) {
	const chunk = 64<<10 + 16 // C2SP age.md, "Payload"
	key, public := ageKey(t)
	keys := identities(t, key)
	want := bytes.Repeat([]byte("memory of a guest"), 10000)
	whole := ageTool(t, want, "age", "-r", public)
	start := bytes.Index(whole, []byte("\n--- ")) + 1 + 4 + 43 + 1 + 16 // of the first chunk
	damages := map[string][]byte{
		"cut in the header": whole[:100], "cut in a chunk": whole[:start+1000], "cut behind a chunk": whole[:start+chunk],
		"cut by a byte": whole[:len(whole)-1], "cut to the nonce": whole[:start], "longer": append(bytes.Clone(whole), 0),
		"chunks exchanged": slices.Concat(whole[:start], whole[start+chunk:start+2*chunk], whole[start:start+chunk], whole[start+2*chunk:]),
		"a chunk less":     slices.Concat(whole[:start], whole[start+chunk:]),
	}
	for _, at := range []int{0, 21, 25, 60, 120, start - 30, start - 5, start, start + 70000, len(whole) - 1} {
		b := bytes.Clone(whole)
		b[at] ^= 1
		damages[fmt.Sprintf("byte %d changed", at)] = b
	}
	for name, b := range damages {
		f := openFile(t, saved(t, b))
		d, err := Decrypt(f, keys)
		if err == nil && d != f {
			var got []byte
			got, err = io.ReadAll(io.NewSectionReader(d, 0, d.Size()))
			if !bytes.HasPrefix(want, got) {
				t.Errorf("%s: %d bytes are read that aren't what was encrypted", name, len(got))
			}
		}
		_, locked := errors.AsType[*LockedError](err)
		switch {
		case d == f && err == nil: // it isn't age's any more
		case errors.Is(err, ErrEncryption), locked:
		default:
			t.Errorf("%s: %v; want %v", name, err, ErrEncryption)
		}
	}
	empty := ageTool(t, nil, "age", "-r", public)
	if _, err := Decrypt(openFile(t, saved(t, empty)), keys); !isRefusal(err) {
		t.Errorf("with nothing in it: %v; want a refusal", err)
	}
}

func isRefusal(err error) bool { _, ok := errors.AsType[*Refusal](err); return ok }

// TestDecryptSourceFails: what the file lies on is to blame for its own failures.
func TestDecryptSourceFails(t *testing.T) {
	key, public := ageKey(t)
	whole := ageTool(t, make([]byte, 1<<20), "age", "-r", public)
	s := &failingSource{Reader: bytes.NewReader(whole)}
	f, err := New("s3://bucket/a.age", s)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Decrypt(f, identities(t, key))
	if err != nil {
		t.Fatal(err)
	}
	s.err = errors.New("the connection was cut")
	if _, err := d.ReadAt(make([]byte, 10), 500000); !errors.Is(err, s.err) || errors.Is(err, ErrEncryption) {
		t.Errorf("ReadAt = %v; want %v alone", err, s.err)
	}
}

type failingSource struct {
	*bytes.Reader
	err error
}

func (s *failingSource) Close() error { return nil }

func (s *failingSource) ReadAt(p []byte, off int64) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	return s.Reader.ReadAt(p, off)
}

// TestReadIdentitiesRefuses: what is no private key is refused, with what to do about
// it, and nothing of it is told.
func TestReadIdentitiesRefuses(t *testing.T) {
	locked := filepath.Join(t.TempDir(), "id")
	ageTool(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "passphrase", "-f", locked)
	withPassphrase, err := os.ReadFile(locked)
	if err != nil {
		t.Fatal(err)
	}
	ecdsa, _ := sshKey(t, "-t", "ecdsa")
	elliptic, err := os.ReadFile(ecdsa)
	if err != nil {
		t.Fatal(err)
	}
	_, public := ageKey(t)
	const secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFP"
	for content, want := range map[string][2]string{
		"":                                     {"none in it", "age-keygen"},
		"# created: today\n":                   {"none in it", "age-keygen"},
		"#\n" + public + "\n":                  {"line 2 is a public key", "age-keygen"},
		secret:                                 {"line 1 has a mistake", "age-keygen"},
		"AGE-PLUGIN-YUBIKEY-1QQ":               {"plugin", "age -d -i FILE"},
		"password":                             {"line 1 is no key", "age-keygen"},
		string(withPassphrase):                 {"passphrase", "ssh-keygen -p -N ''"},
		string(elliptic):                       {"no ssh key that age uses", "ed25519"},
		"age-encryption.org/v1\n-> scrypt":     {"passphrase itself", "--identity <(age -d FILE)"},
		"-----BEGIN AGE ENCRYPTED FILE-----\n": {"passphrase itself", "--identity <(age -d FILE)"},
		strings.Repeat("#\n", 1<<20):           {"more than 1048576 bytes", "age-keygen"},
	} {
		path := saved(t, []byte(content))
		keys, err := ReadIdentities(t.Context(), path)
		e, ok := errors.AsType[*IdentityError](err)
		if !ok || e.Path != path || !strings.Contains(e.Error(), want[0]) || !strings.Contains(e.Next, want[1]) {
			t.Errorf("ReadIdentities of %.40q = %v, %v; want %q, next %q", content, keys, err, want[0], want[1])
			continue
		}
		if len(content) > 30 && strings.Contains(e.Error()+e.Next, strings.TrimSpace(content[20:30])) && content != "age-encryption.org/v1\n-> scrypt" {
			t.Errorf("ReadIdentities of %.40q tells what is in it: %v", content, err)
		}
	}
}

// FuzzIdentities: no file with private keys does any harm.
func FuzzIdentities(f *testing.F) {
	f.Add([]byte("# created: 2026\nAGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n"))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := parseIdentities(b)
		if e, ok := errors.AsType[*IdentityError](err); err != nil && (!ok || e.Why == "" || e.Next == "") {
			t.Errorf("%v; want an IdentityError", err)
		}
		if err == nil && len(keys) == 0 {
			t.Error("there are neither keys nor an error")
		}
	})
}

// FuzzDecrypt: no encrypted file does any harm, whatever is in it.
func FuzzDecrypt(f *testing.F) {
	key, err := age.ParseX25519Identity("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("age-encryption.org/v1\n-> \x1b[31m x\n\n--- AAAA\n"))
	f.Add([]byte("age-encryption.org/v1\n-> ssh-rsa aaaa\n-> grease\n\n---"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := New("a.age", &failingSource{Reader: bytes.NewReader(b)})
		if err != nil {
			return
		}
		d, err := Decrypt(file, []Identity{{key}})
		_, locked := errors.AsType[*LockedError](err)
		switch {
		case err == nil:
			if got, err := io.ReadAll(io.NewSectionReader(d, 0, d.Size())); err != nil && !errors.Is(err, ErrEncryption) {
				t.Errorf("%d bytes, %v; want all of it, or %v", len(got), err, ErrEncryption)
			}
		case !locked && !isRefusal(err) && !errors.Is(err, ErrEncryption):
			t.Errorf("%v; want a LockedError, a Refusal or %v", err, ErrEncryption)
		case strings.Contains(err.Error(), "\x1b"):
			t.Errorf("%q has a control character", err)
		}
	})
}
