package dump

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"snap/phys"
)

// TestPlainSum: the sum is that of the plain dump, in every container, and for the
// account inside it too; nobody has it who didn't ask.
func TestPlainSum(t *testing.T) {
	for _, c := range Compressions() {
		for _, frame := range []int{phys.PageSize, 1 << 16, DefaultFrameSize} {
			p, m := sparsePlan(t)
			plain := sha256.Sum256(expected(p, m))
			want := hex.EncodeToString(plain[:])
			inside := ""
			o := Options{Compression: c, FrameSize: frame, PlainSum: true, Metadata: func(s *Stats) ([]byte, error) {
				inside = s.PlainSHA256
				return []byte("{}"), nil
			}}
			stored, s := written(t, p, m, o)
			if s.PlainSHA256 != want || c == CompressionZstd && inside != want {
				t.Errorf("%s, frames of %d: %s, inside %s; want %s", c, frame, s.PlainSHA256, inside, want)
			}
			var out bytes.Buffer
			w, sum := Summed(&out)
			if _, err := Expand(t.Context(), opened(t, stored), w, nil); err != nil || sum() != want || !bytes.Equal(out.Bytes(), expected(p, m)) {
				t.Errorf("%s: expanded, %v, it is %s; want %s", c, err, sum(), want)
			}
			o.PlainSum = false
			if _, s := written(t, p, m, o); s.PlainSHA256 != "" {
				t.Errorf("%s: a sum that nobody asked for: %s", c, s.PlainSHA256)
			}
		}
	}
}

// TestSummedHoles: holes are hashed as the zeros that they read as, and stay holes.
func TestSummedHoles(t *testing.T) {
	p, m := sparsePlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16})
	plain := sha256.Sum256(expected(p, m))
	out := &holes{}
	w, sum := Summed(out)
	st, err := Expand(t.Context(), opened(t, stored), w, nil)
	if err != nil || sum() != hex.EncodeToString(plain[:]) {
		t.Errorf("expanded with holes, %v, it is %s; want %x", err, sum(), plain)
	}
	if out.n == 0 || uint64(out.n) != st.Holes {
		t.Errorf("%d bytes were left out, and %d are said to be", out.n, st.Holes)
	}
}

// holes counts what is left out.
type holes struct{ n int64 }

func (h *holes) Write(p []byte) (int, error) { return len(p), nil }

func (h *holes) WriteHole(n int64) error { h.n += n; return nil }
