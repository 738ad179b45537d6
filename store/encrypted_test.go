package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"snap/store"
	"snap/store/storetest"
)

// x25519 returns a new key, and the recipient that it is of.
func x25519(t *testing.T) (*age.X25519Identity, store.Recipient) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key, recipient(t, key.Recipient().String())
}

func recipient(t *testing.T, text string) store.Recipient {
	t.Helper()
	r, err := store.ParseRecipient(text)
	if err != nil {
		t.Fatalf("ParseRecipient(%q) failed: %v", text, err)
	}
	return r
}

func encrypting(t *testing.T, p store.Place, to ...store.Recipient) store.Place {
	t.Helper()
	e, err := store.Encrypt(p, to...)
	if err != nil {
		t.Fatalf("Encrypt failed: %v", err)
	}
	return e
}

// TestEncrypted: a place whose files are encrypted is a place like any other, to those
// who have the key.
func TestEncrypted(t *testing.T) {
	key, to := x25519(t)
	decrypted := func(b []byte, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		r, err := age.Decrypt(bytes.NewReader(b), key)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	t.Run("folder", func(t *testing.T) {
		var dir string
		stored := func(_ *testing.T, name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) }
		storetest.TestPlace(t, storetest.Kind{
			New: func(t *testing.T, o store.Options) (store.Place, string) {
				dir = t.TempDir()
				p, name := opened(t, filepath.Join(dir, "a.dmp.age"), o)
				return encrypting(t, p, to), name
			},
			Stored:  stored,
			Content: func(t *testing.T, name string) ([]byte, error) { return decrypted(stored(t, name)) },
		})
	})
	t.Run("stdout", func(t *testing.T) {
		var out *bytes.Buffer
		stored := func(*testing.T, string) ([]byte, error) { return out.Bytes(), nil }
		storetest.TestPlace(t, storetest.Kind{
			New: func(t *testing.T, o store.Options) (store.Place, string) {
				out = new(bytes.Buffer)
				o.Stdout = out
				p, name := opened(t, "-", o)
				return encrypting(t, p, to), name
			},
			Stored:  stored,
			Content: func(t *testing.T, name string) ([]byte, error) { return decrypted(stored(t, name)) },
			Stream:  true,
		})
	})
}

// ageTool runs a program, and returns what it prints.
func ageTool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var messages bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, messages.Bytes())
	}
	return out
}

// keyFile has age-keygen make a key, and returns its file and the public key.
func keyFile(t *testing.T) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key")
	ageTool(t, "age-keygen", "-o", path)
	return path, strings.TrimSpace(string(ageTool(t, "age-keygen", "-y", path)))
}

// sshKeyFile has ssh-keygen make a key, and returns its file and the public key.
func sshKeyFile(t *testing.T, kind string) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "id")
	ageTool(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "someone@somewhere", "-f", path)
	b, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(b))
}

// TestEncryptedForAge: the program age decrypts what was encrypted, with the key of any
// recipient, whatever lengths it has.
func TestEncryptedForAge(t *testing.T) {
	var keys []string
	var to []store.Recipient
	for _, made := range []func() (string, string){
		func() (string, string) { return keyFile(t) },
		func() (string, string) { return sshKeyFile(t, "ed25519") },
		func() (string, string) { return sshKeyFile(t, "rsa") },
	} {
		path, public := made()
		keys = append(keys, path)
		to = append(to, recipient(t, public))
	}
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, 3<<20 + 17} {
		want := bytes.Repeat([]byte("0123456789abcdef!"), n/17+1)[:n]
		path := filepath.Join(t.TempDir(), "a.age")
		p, name := opened(t, path, store.Options{})
		if err := store.WriteFile(t.Context(), encrypting(t, p, to...), name, want); err != nil {
			t.Fatalf("WriteFile failed: %v", err)
		}
		for _, key := range keys {
			if got := ageTool(t, "age", "-d", "-i", key, path); !bytes.Equal(got, want) {
				t.Errorf("age -d -i %s has %d bytes; want the %d that were encrypted", key, len(got), n)
			}
		}
		stored, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := bytes.Cut(stored, []byte("\n--- "))
		if got := bytes.Count(header, []byte("\n-> ")); got != len(to) {
			t.Errorf("the header has %d stanzas; want one for each of %d recipients and no more", got, len(to))
		}
	}
}

// TestEncryptedPostQuantum: post-quantum recipients decrypt, and can't be mixed with
// others, with whom the file would be as weak as those.
func TestEncryptedPostQuantum(t *testing.T) {
	var to []store.Recipient
	var keys []*age.HybridIdentity
	for range 2 {
		key, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		to = append(to, recipient(t, key.Recipient().String()))
	}
	out := new(bytes.Buffer)
	p, name := opened(t, "-", store.Options{Stdout: out})
	if err := store.WriteFile(t.Context(), encrypting(t, p, to...), name, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		r, err := age.Decrypt(bytes.NewReader(out.Bytes()), key)
		if err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if got, err := io.ReadAll(r); string(got) != "secret" || err != nil {
			t.Errorf("key %d: %q, %v", i, got, err)
		}
	}
	_, classic := x25519(t)
	if _, err := store.Encrypt(p, to[0], classic); !errors.Is(err, store.ErrRecipient) {
		t.Errorf("Encrypt to a post-quantum key and another = %v; want %v", err, store.ErrRecipient)
	}
	if _, err := store.Encrypt(p); !errors.Is(err, store.ErrRecipient) {
		t.Errorf("Encrypt to nobody = %v; want %v", err, store.ErrRecipient)
	}
}

// faulty is a place that gives back other bytes than it was given, or fails to write.
type faulty struct {
	store.Place
	flip   int64 // the offset of a byte that is another one when it is read, -1 for none
	writes int   // that work
}

type faultyFile struct {
	store.File
	p *faulty
}

var errFaulty = errors.New("the disk is on fire")

func (p *faulty) Create(ctx context.Context, name string) (store.File, error) {
	f, err := p.Place.Create(ctx, name)
	return &faultyFile{f, p}, err
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if f.p.writes--; f.p.writes < 0 {
		return 0, errFaulty
	}
	return f.File.Write(b)
}

func (f *faultyFile) Reopen(ctx context.Context) (io.ReaderAt, int64, error) {
	r, size, err := f.File.Reopen(ctx)
	return flipped{r, f.p.flip}, size, err
}

type flipped struct {
	io.ReaderAt
	at int64
}

func (r flipped) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(b, off)
	if i := r.at - off; r.at >= 0 && i >= 0 && i < int64(n) {
		b[i] ^= 1
	}
	return n, err
}

// TestEncryptedReadBack: what Reopen gives is decrypted from what the place has, so
// that a fault of that is found: in the header, in what is encrypted, at its end.
func TestEncryptedReadBack(t *testing.T) {
	_, to := x25519(t)
	want := bytes.Repeat([]byte("memory of a guest"), 20000)
	for _, flip := range []int64{-1, 30, 250, 100000, 340000} {
		dir := t.TempDir()
		p := encrypting(t, &faulty{store.Folder(dir, store.Options{}), flip, 1000}, to)
		f, err := p.Create(t.Context(), "a.age")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(want); err != nil {
			t.Fatal(err)
		}
		r, size, err := f.Reopen(t.Context())
		var got []byte
		if err == nil {
			got, err = io.ReadAll(io.NewSectionReader(r, 0, size))
		}
		switch {
		case flip < 0 && (err != nil || !bytes.Equal(got, want)):
			t.Errorf("%d bytes are read back, %v; want the %d that were written", len(got), err, len(want))
		case flip >= 0 && !errors.Is(err, store.ErrDecrypt):
			t.Errorf("with byte %d changed: %v; want %v", flip, err, store.ErrDecrypt)
		}
		if err := f.Abort(); err != nil {
			t.Error(err)
		}
	}
}

// TestEncryptedWriteFails: whichever write fails, the file doesn't get its name, and
// the reason is told.
func TestEncryptedWriteFails(t *testing.T) {
	_, to := x25519(t)
	const blocks = 4
	for works := range blocks {
		dir := t.TempDir()
		p := encrypting(t, &faulty{store.Folder(dir, store.Options{}), -1, works}, to)
		if err := store.WriteFile(t.Context(), p, "a.age", make([]byte, (blocks-1)<<20+100)); !errors.Is(err, errFaulty) {
			t.Errorf("after %d writes: %v; want %v", works, err, errFaulty)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("after %d writes %v is left (%v)", works, left, err)
		}
	}
}

// TestEncryptedSpace: what may be written is less than what there is room for, by just
// what is added, and how much is there is known.
func TestEncryptedSpace(t *testing.T) {
	_, to := x25519(t)
	inClear, err := store.Folder(t.TempDir(), store.Options{}).Create(t.Context(), "a")
	if err != nil || store.Stored(inClear, 5) != 5 {
		t.Errorf("Stored of a file in clear = %d, %v; want what was written", store.Stored(inClear, 5), err)
	}
	if err := inClear.Abort(); err != nil {
		t.Error(err)
	}
	room := &fixedSpace{Place: store.Folder(t.TempDir(), store.Options{})}
	for _, n := range []uint64{0, 1, 64 << 10, 200<<10 + 5} {
		out := new(bytes.Buffer)
		p, name := opened(t, "-", store.Options{Stdout: out})
		f, err := encrypting(t, p, to).Create(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		stored := store.Stored(f, n)
		if err := f.Commit(t.Context()); err != nil || stored != uint64(out.Len()) {
			t.Errorf("Stored = %d; want the %d bytes that are there (%v)", stored, out.Len(), err)
		}
		room.n = uint64(out.Len())
		s, err := encrypting(t, room, to).Space(t.Context())
		if err != nil || s.Most != n || s.Sure != n || !s.Known {
			t.Errorf("with room for %d bytes Space = %+v, %v; want %d", room.n, s, err, n)
		}
	}
}

type fixedSpace struct {
	store.Place
	n uint64
}

func (f *fixedSpace) Space(context.Context) (store.Space, error) {
	return store.Space{Known: true, Sure: f.n, Most: f.n}, nil
}

// TestInClear: what lies beside encrypted files isn't encrypted, and to whom they are is
// known of the place.
func TestInClear(t *testing.T) {
	_, to := x25519(t)
	p := store.Folder(t.TempDir(), store.Options{})
	e := encrypting(t, p, to)
	if store.InClear(e) != p || store.InClear(p) != p {
		t.Error("InClear isn't the place that is encrypted to")
	}
	if got := store.Recipients(e); len(got) != 1 || got[0].String() != to.String() || store.Recipients(p) != nil {
		t.Errorf("Recipients = %v; want %v, and none where nothing is encrypted", got, to)
	}
}
