package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"snap/dump"
	"snap/internal/ntlab"
	"snap/manifest"
	"snap/store"
)

// damagingPlace is a place whose files give back another byte than was written, take
// one byte less, or are full, at an offset.
type damagingPlace struct {
	store.Place
	at                   int64
	readsAnother, isFull bool
}

func (p *damagingPlace) Create(ctx context.Context, name string) (store.File, error) {
	f, err := p.Place.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	return &damagingFile{File: f, p: p}, nil
}

type damagingFile struct {
	store.File
	p   *damagingPlace
	off int64
}

func (f *damagingFile) Write(b []byte) (int, error) {
	if f.p.isFull && f.off+int64(len(b)) > f.p.at {
		n, _ := f.File.Write(b[:f.p.at-f.off])
		return n, syscall.ENOSPC
	}
	n, err := f.File.Write(b)
	f.off += int64(n)
	return n, err
}

func (f *damagingFile) Reopen(ctx context.Context) (io.ReaderAt, int64, error) {
	r, size, err := f.File.Reopen(ctx)
	if f.p.readsAnother {
		r = damagedReader{r, f.p.at}
	}
	return r, size, err
}

type damagedReader struct {
	io.ReaderAt
	at int64
}

func (r damagedReader) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(b, off)
	if i := r.at - off; i >= 0 && i < int64(n) {
		b[i] ^= 4
	}
	return n, err
}

// TestProvenDump: the account says how a dump was proven, and what is damaged on its
// way, or doesn't fit, never gets the name, in each container and either way.
func TestProvenDump(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{})
	if err := vm.im.Fill(24<<20, ntlab.Mix{Random: 1}); err != nil {
		t.Fatal(err)
	}
	for _, c := range dump.Compressions() {
		for _, v := range dump.Verifications() {
			t.Run(fmt.Sprintf("%s %s", c, v), func(t *testing.T) {
				dir := t.TempDir()
				o := Options{Mode: Pause{}, MemoryCopy: 1 << 30, Manifest: true}
				o.Write.Compression, o.Write.Verification, o.Write.Workers = c, v, 2
				place := &damagingPlace{Place: store.Folder(dir, store.Options{NoSum: true})}
				res, err := Take(t.Context(), vm, place, "good", o)
				if err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(filepath.Join(dir, "good"))
				if err != nil {
					t.Fatal(err)
				}
				checkProof(t, res.Manifest, c, v, info.Size())

				place.at = info.Size() / 4 * 3
				for what, tt := range map[string]struct {
					place damagingPlace
					want  func(error) bool
				}{
					"a byte is read back as another": {damagingPlace{readsAnother: true}, func(err error) bool {
						return strings.Contains(err.Error(), "container checksums: file at file offset")
					}},
					"the disk is full": {damagingPlace{isFull: true}, func(err error) bool { return errors.Is(err, syscall.ENOSPC) }},
				} {
					bad := tt.place
					bad.Place, bad.at = place.Place, place.at
					if _, err := Take(t.Context(), vm, &bad, "bad", o); err == nil || !tt.want(err) {
						t.Errorf("%s: Take = %v", what, err)
					}
					if _, err := os.Stat(filepath.Join(dir, "bad")); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s: there is a file: %v", what, err)
					}
				}
			})
		}
	}
}

func checkProof(t *testing.T, m *manifest.Manifest, c dump.Compression, v dump.Verification, size int64) {
	t.Helper()
	p := m.Proof
	switch {
	case p == nil || m.Verify == nil || m.Verify.ReadBack != uint64(size):
		t.Fatalf("proof %+v, verdict %+v; want a proof, and %d bytes read back", p, m.Verify, size)
	case p.Verify != string(v):
		t.Errorf("proof is %q; want %q", p.Verify, v)
	case c == dump.CompressionNone:
		if *p != (manifest.Proof{Verify: string(v)}) {
			t.Errorf("proof of a plain dump is %+v; want no frames", p)
		}
	case v == dump.VerifyDecoded && p.Frames != p.Zero+p.Decoded || p.Decoded == 0:
		t.Errorf("proof is %+v; want all that aren't zero decoded", p)
	case v == dump.VerifyStored && (p.Decoded == 0 || p.Decoded > p.Frames/dump.DecodedShare+1):
		t.Errorf("proof is %+v; want one frame in %d decoded", p, dump.DecodedShare)
	}
}
