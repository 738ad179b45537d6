package sparse

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

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

func TestData(t *testing.T) {
	f := file(t, 3, 4, 10, 20, 31)
	tests := []struct {
		name      string
		off, size int64
		want      []Extent
	}{
		{"all", 0, 32 * block, []Extent{{3 * block, 2 * block}, {10 * block, block}, {20 * block, block}, {31 * block, block}}},
		{"from within data", 4*block + 100, 10 * block, []Extent{{4*block + 100, block - 100}, {10 * block, block}}},
		{"up to within data", 5 * block, 5*block + 100, []Extent{{10 * block, 100}}},
		{"hole", 11 * block, 9 * block, nil},
		{"nothing", 3 * block, 0, nil},
	}
	for _, tt := range tests {
		got, err := Data(t.Context(), File{f}, tt.off, tt.size)
		if err != nil {
			t.Errorf("Data of %s failed: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Data of %s (-want +got):\n%s", tt.name, diff)
		}
	}
	if got, err := Data(t.Context(), File{file(t)}, 0, 32*block); err != nil || len(got) != 0 {
		t.Errorf("Data of a file without any = %v, %v; want none", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Data(ctx, File{f}, 0, 32*block); !errors.Is(err, context.Canceled) {
		t.Errorf("Data with an ended context = %v; want %v", err, context.Canceled)
	}
}

// TestMerger: whatever parts there are, all of each is in one of the few that are
// kept, and those between which there is most stay apart.
func TestMerger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Merger{Most: rapid.IntRange(1, 8).Draw(t, "most")}
		var in []Extent
		at := int64(0)
		for range rapid.IntRange(0, 60).Draw(t, "parts") {
			gap := rapid.SampledFrom([]int64{1, 512, 4096, 100_000, 1 << 30}).Draw(t, "gap")
			e := Extent{at + gap, rapid.Int64Range(1, 5000).Draw(t, "size")}
			at = e.Off + e.Size
			in = append(in, e)
			m.Add(e)
		}
		if len(m.Parts()) > m.Most || len(in) <= m.Most && len(in) > 0 && !slices.Equal(m.Parts(), in) {
			t.Fatalf("%v of %v; want at most %d parts, and no change if there are no more", m.Parts(), in, m.Most)
		}
		for i, p := range m.Parts() {
			if i > 0 && p.Off <= m.Parts()[i-1].Off+m.Parts()[i-1].Size {
				t.Fatalf("parts overlap or touch: %v", m.Parts())
			}
		}
		for _, e := range in {
			if !slices.ContainsFunc(m.Parts(), func(p Extent) bool { return p.Off <= e.Off && e.Off+e.Size <= p.Off+p.Size }) {
				t.Fatalf("%v is in none of %v", e, m.Parts())
			}
		}
	})
	m := Merger{Most: 2}
	for _, e := range []Extent{{0, 10}, {20, 10}, {1 << 30, 10}, {1<<30 + 100, 10}} {
		m.Add(e)
	}
	if want := []Extent{{0, 30}, {1 << 30, 110}}; !slices.Equal(m.Parts(), want) {
		t.Errorf("parts are %v; want %v", m.Parts(), want)
	}
}
