package sparse

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type extent struct{ Off, Size int64 }

func dataOf(ctx context.Context, f *os.File, off, size int64) (out []extent, err error) {
	err = Each(ctx, File{f}, off, off+size, func(lo, hi int64) { out = append(out, extent{lo, hi - lo}) })
	return out, err
}

const block = 64 << 10 // a multiple of any file system's block

// file has data in the given blocks of 32 and holes elsewhere.
func file(t *testing.T, data ...int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.Truncate(32 * block); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, block)
	for i := range b {
		b[i] = 1
	}
	for _, i := range data {
		if _, err := f.WriteAt(b, i*block); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestEach(t *testing.T) {
	f := file(t, 3, 4, 10, 20, 31)
	tests := []struct {
		name      string
		off, size int64
		want      []extent
	}{
		{"all", 0, 32 * block, []extent{{3 * block, 2 * block}, {10 * block, block}, {20 * block, block}, {31 * block, block}}},
		{"from within data", 4*block + 100, 10 * block, []extent{{4*block + 100, block - 100}, {10 * block, block}}},
		{"up to within data", 5 * block, 5*block + 100, []extent{{10 * block, 100}}},
		{"hole", 11 * block, 9 * block, nil},
		{"nothing", 3 * block, 0, nil},
	}
	for _, tt := range tests {
		got, err := dataOf(t.Context(), f, tt.off, tt.size)
		if err != nil {
			t.Errorf("Each of %s failed: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Each of %s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got, err := dataOf(t.Context(), file(t), 0, 32*block); err != nil || len(got) != 0 {
		t.Errorf("Each of a file without any = %v, %v; want none", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dataOf(ctx, f, 0, 32*block); !errors.Is(err, context.Canceled) {
		t.Errorf("Each with an ended context = %v; want %v", err, context.Canceled)
	}
}
