package dump

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"snap/internal/ntlab"
	"snap/phys"
)

// labPages are pages as a lab guest is filled with, one kind of them.
func labPages(t testing.TB, mix ntlab.Mix, n int) []byte {
	t.Helper()
	im, err := ntlab.Build(ntlab.Config{})
	if err == nil {
		err = im.Fill(32<<20, mix)
	}
	p := make([]byte, n*phys.PageSize)
	if err == nil {
		err = im.ReadPhys(context.Background(), p, 16<<20) // above what Windows has in low memory
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// programPages are of this program.
func programPages(t testing.TB, n int) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, n*phys.PageSize)
	if _, err := io.ReadFull(io.NewSectionReader(f, 1<<20, int64(len(p))), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRandomLiterals: entropy coding is left out where random pages are many beside what
// it is good for, and only there.
func TestRandomLiterals(t *testing.T) {
	const n = 128
	random := labPages(t, ntlab.Mix{Random: 1}, n)
	text := labPages(t, ntlab.Mix{Text: 1}, n)
	structures := labPages(t, ntlab.Mix{Structures: 1}, n)
	program := programPages(t, n)
	some := func(p []byte, n int) []byte { return p[:n*phys.PageSize] }
	for _, tt := range []struct {
		name  string
		parts [][]byte
		want  bool
	}{
		{"nothing", nil, false},
		{"zeros", [][]byte{make([]byte, n*phys.PageSize)}, false},
		{"random", [][]byte{random}, true},
		{"text", [][]byte{text}, false},
		{"structures", [][]byte{structures}, false},
		{"programs", [][]byte{program}, false},
		{"all kinds but programs", [][]byte{some(random, 32), some(text, 32), some(structures, 32), make([]byte, 32*phys.PageSize)}, true},
		{"programs, and some random pages", [][]byte{program, some(random, 16)}, false},
		{"random pages, and some of programs", [][]byte{random, some(program, 16)}, true},
	} {
		if got := randomLiterals(bytes.Join(tt.parts, nil)); got != tt.want {
			t.Errorf("randomLiterals of %s = %v; want %v", tt.name, got, tt.want)
		}
	}
}

// TestChoiceOfEntropy: what is coded without entropy is hardly larger, and any mix of
// pages is what it was when it is expanded.
func TestChoiceOfEntropy(t *testing.T) {
	random, program := labPages(t, ntlab.Mix{Random: 1}, 256), programPages(t, 256)
	mixed := labPages(t, ntlab.Mix{Zero: 1, Text: 1, Structures: 1}, 256)
	r := rand.New(rand.NewPCG(1, 2))
	dec, err := newZstdDecoder(Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := newZstdEncoder(Options{FrameSize: DefaultFrameSize})
	if err != nil {
		t.Fatal(err)
	}
	z := e.(zstdEncoder)
	for _, base := range [][]byte{program, mixed} {
		for _, percent := range []int{0, 10, 30, 60, 100} {
			p := bytes.Clone(base)
			for at := 0; at < len(p); at += phys.PageSize {
				if r.IntN(100) < percent {
					copy(p[at:at+phys.PageSize], random[at:])
				}
			}
			got, err := z.encode(nil, p)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := dec.decode(make([]byte, 0, len(p)+decodeSlack), got, len(p)); err != nil || !bytes.Equal(back, p) {
				t.Fatalf("%d%% random: it expands to something else: %v", percent, err)
			}
			if most := len(z.entropy.EncodeAll(p, nil)); len(got) > most+most/50 {
				t.Errorf("%d%% random: %d bytes; want at most 2%% more than the %d with entropy coding", percent, len(got), most)
			}
		}
	}
}
