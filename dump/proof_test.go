package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"snap/phys"
)

// proved is what Write makes of a plan, with the proof of it.
func proved(t testing.TB, p *Plan, m phys.Reader, o Options) ([]byte, *Proof) {
	t.Helper()
	o.Proof = new(Proof)
	stored, _ := written(t, p, m, o)
	return stored, o.Proof
}

// TestReadBack: whatever spans a file is of, and however much is read at a time, it is
// found to be whole; a byte that is another one, or more or fewer of them, are found.
func TestReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var file []byte
		p := new(Proof)
		p.begin(1 << 20)
		for range rapid.IntRange(1, 20).Draw(t, "spans") {
			b := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "span")
			for range rapid.IntRange(1, 9).Draw(t, "times") {
				file = append(file, b...)
				p.add(xxhash.Sum64(b), len(b))
			}
		}
		read := func(b []byte) error {
			back := readBack{share: rapid.IntRange(1, 64).Draw(t, "share"), spans: p.spans}
			return back.all(t.Context(), bytes.NewReader(b), int64(len(b)), new(Progress))
		}
		if err := read(file); err != nil {
			t.Fatalf("the file that was written: %v", err)
		}
		bad := bytes.Clone(file)
		at := rapid.IntRange(0, len(file)-1).Draw(t, "at")
		bad[at] ^= rapid.ByteRange(1, 255).Draw(t, "by")
		for what, b := range map[string][]byte{
			"a byte is another one": bad,
			"it is longer":          append(bytes.Clone(file), file[0]),
			"it is shorter":         file[:at],
		} {
			err := read(b)
			if damage, ok := errors.AsType[*FormatError](err); !ok || damage.Off < 0 || damage.Off > int64(len(file)) {
				t.Fatalf("%s: %v; want a FormatError with the place", what, err)
			}
		}
	})
}

// TestProof: it says how the frames of each container were proven, and the file as it
// was written agrees with it, but no other.
func TestProof(t *testing.T) {
	p, m := smallPlan(t)
	p.Populated = phys.Runs{{Base: 0, Pages: 0x200}}
	const frame = 16 * phys.PageSize
	for _, tt := range []struct {
		c    Compression
		v    Verification
		want Proof
	}{
		// The header is a frame, and 689 pages are 44: the first 26 are populated, and
		// the last has an overlay.
		{CompressionZstd, VerifyDecoded, Proof{Frames: 45, Zero: 17, Decoded: 28}},
		{CompressionZstd, VerifyStored, Proof{Frames: 45, Zero: 17, Decoded: 2}}, // frames 0 and 16
		{CompressionGzip, VerifyDecoded, Proof{Frames: 45, Zero: 17, Decoded: 28}},
		{CompressionGzip, VerifyStored, Proof{Frames: 45, Zero: 17, Decoded: 2}},
		{CompressionNone, VerifyDecoded, Proof{}},
	} {
		t.Run(fmt.Sprintf("%s %s", tt.c, tt.v), func(t *testing.T) {
			stored, proof := proved(t, p, m, Options{Compression: tt.c, Verification: tt.v, FrameSize: frame, Metadata: someMetadata})
			if got := (Proof{Frames: proof.Frames, Zero: proof.Zero, Decoded: proof.Decoded}); got.Frames != tt.want.Frames || got.Zero != tt.want.Zero || got.Decoded != tt.want.Decoded {
				t.Errorf("proof = %+v; want %+v", got, tt.want)
			}
			if !proof.Whole() {
				t.Fatal("Whole() = false")
			}
			var progress Progress
			if err := opened(t, stored).CheckStored(t.Context(), proof, &progress); err != nil {
				t.Errorf("CheckStored failed: %v", err)
			}
			if n := uint64(len(stored)); progress.Done.Load() != n || progress.Total.Load() != n {
				t.Errorf("progress = %d of %d; want %d", progress.Done.Load(), progress.Total.Load(), n)
			}
			for at := len(stored) - 1; at >= 0x3000; at -= len(stored) / 50 {
				bad := bytes.Clone(stored)
				bad[at] ^= 0x10
				f, err := NewFile(bytes.NewReader(bad), int64(len(bad)))
				if err == nil {
					err = f.CheckStored(t.Context(), proof, nil)
					_ = f.Close()
				}
				if !errors.Is(err, ErrFormat) {
					t.Errorf("with byte %#x changed: %v; want ErrFormat", at, err)
				}
			}
		})
	}
}

// TestProofOfTooManyFrames: a proof that would take more than its part of the memory
// says that it is none.
func TestProofOfTooManyFrames(t *testing.T) {
	runs := []phys.Run{{Base: 1, Pages: 3000}}
	_, proof := proved(t, &Plan{Header: testHeader(runs), Runs: runs}, steadyMemory{}, Options{FrameSize: phys.PageSize, Memory: 256 << 10})
	if proof.Whole() {
		t.Error("Whole() of 3000 frames in 32 KiB = true; want false")
	}
	if proof.Frames != 3002 || proof.Decoded != 3002 {
		t.Errorf("%d frames, %d decoded; want 3002", proof.Frames, proof.Decoded)
	}
}

// badEncoder is an encoder that errs in one frame.
type badEncoder struct {
	encoder
	frames *int
	bad    int
	how    func(enc encoder, dst, src []byte) ([]byte, error)
}

func (e badEncoder) encode(dst, src []byte) ([]byte, error) {
	if *e.frames++; *e.frames-1 == e.bad {
		return e.how(e.encoder, dst, src)
	}
	return e.encoder.encode(dst, src)
}

// TestFaultyEncoder: what a compressor, a processor or memory gets wrong is no dump.
func TestFaultyEncoder(t *testing.T) {
	flipped := func(at func(n int) int) func(encoder, []byte, []byte) ([]byte, error) {
		return func(enc encoder, dst, src []byte) ([]byte, error) {
			b, err := enc.encode(dst, src)
			b[at(len(b))] ^= 1
			return b, err
		}
	}
	faults := map[string]func(enc encoder, dst, src []byte) ([]byte, error){
		"a bit in the middle": flipped(func(n int) int { return n / 2 }),
		"a checksum":          flipped(func(n int) int { return n - 1 }),
		"other pages, with their checksum": func(enc encoder, dst, src []byte) ([]byte, error) {
			other := bytes.Clone(src)
			other[len(other)/2] ^= 1
			return enc.encode(dst, other)
		},
		"fewer pages": func(enc encoder, dst, src []byte) ([]byte, error) { return enc.encode(dst, src[phys.PageSize:]) },
		"nothing":     func(_ encoder, dst, _ []byte) ([]byte, error) { return dst[:0], nil },
	}
	p, m := smallPlan(t)
	for name, how := range faults {
		for _, c := range []container{zstdContainer(), gzipContainer()} {
			if c.name == CompressionGzip && name == "a checksum" {
				how = flipped(func(n int) int { return n - 5 }) // the last four bytes are the length
			}
			for _, v := range Verifications() {
				// The header's frame is the first, and decoded in any case; the third is not.
				for frame, found := range map[int]bool{0: true, 2: v == VerifyDecoded || name == "nothing"} {
					bad := c
					encodes := 0
					if c.zeros == nil {
						encodes = -2 // those of the frames of zeros come before
					}
					bad.encoder = func(o Options) (encoder, error) {
						enc, err := c.encoder(o)
						return badEncoder{enc, &encodes, frame, how}, err
					}
					_, err := writeIn(t.Context(), io.Discard, m, p, Options{Compression: c.name, Verification: v, Workers: 1, FrameSize: 1 << 18}, []container{bad})
					if errors.Is(err, ErrEncoding) != found || (err == nil) == found {
						t.Errorf("%s in frame %d of %s, %s: %v; want it found: %v", name, frame, c.name, v, err, found)
					}
				}
			}
		}
	}
}

// TestDamageOnTheWay: bytes that change between the compressor and the file, or in the
// file, are found when it is read back, even if frames still expand.
func TestDamageOnTheWay(t *testing.T) {
	p, m := smallPlan(t)
	for _, c := range Compressions() {
		for _, o := range []Options{{Compression: c}, {Compression: c, FrameSize: 1 << 16, Verification: VerifyStored}} {
			o.Proof = new(Proof)
			w := &damagingWriter{at: 0x12345}
			if _, err := Write(t.Context(), w, m, p, o); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, w.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.CheckStored(t.Context(), o.Proof, nil); !errors.Is(err, ErrFormat) {
				t.Errorf("%s: CheckStored = %v; want ErrFormat", c, err)
			}
		}
	}
}

// damagingWriter changes a byte of what is written.
type damagingWriter struct {
	bytes.Buffer
	at int
}

func (w *damagingWriter) Write(p []byte) (int, error) {
	off := w.Len()
	n, err := w.Buffer.Write(p)
	if off <= w.at && w.at < w.Len() {
		w.Bytes()[w.at] ^= 0x80
	}
	return n, err
}

// shortWriter takes a byte less than it is given, and says nothing of it but that.
type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) - 1, nil }

type shortHoleWriter struct{ shortWriter }

func (shortHoleWriter) WriteHole(int64) error { return nil }

func TestShortWrite(t *testing.T) {
	p, m := smallPlan(t)
	for _, c := range Compressions() {
		for _, w := range []io.Writer{shortWriter{}, shortHoleWriter{}} {
			if _, err := Write(t.Context(), w, m, p, Options{Compression: c}); !errors.Is(err, io.ErrShortWrite) {
				t.Errorf("%s to a %T: %v; want io.ErrShortWrite", c, w, err)
			}
		}
	}
}

// TestBudget: what a pipeline allocates stays within Options.Memory.
func TestBudget(t *testing.T) {
	for _, c := range containers() {
		for _, memory := range []int64{4 << 20, 12 << 20, 48 << 20, DefaultMemory, 1 << 40} {
			for _, frame := range []int{phys.PageSize, 1 << 18, DefaultFrameSize, MaxFrameSize} {
				for _, workers := range []int{1, 2, 256} {
					p := pipeline{gatherer: gatherer{frameSize: frame}, cont: c, opts: Options{Memory: memory, Workers: workers, FrameSize: frame}}
					b, err := p.budget()
					if err != nil {
						if memory > 4*int64(frame) {
							t.Errorf("%s, %d bytes for frames of %d: %v", c.name, memory, frame, err)
						}
						continue
					}
					perFrame, perWorker := int64(2*frame+frame/128+1024), int64(frame+64)
					if c.plain {
						perFrame, perWorker = int64(frame), 0
					}
					sum := int64(b.frames)*perFrame + int64(b.workers)*perWorker + int64(b.blocks*b.block) + b.proof
					if sum > memory || b.workers < 1 || b.workers > workers || b.frames <= b.workers {
						t.Errorf("%s, %d bytes, frames of %d, %d workers: %+v is %d bytes", c.name, memory, frame, workers, b, sum)
					}
				}
			}
		}
	}
}

// TestNoAllocations: a frame that is read, compressed, hashed and decoded again
// allocates nothing.
func TestNoAllocations(t *testing.T) {
	m, plan := newBenchMemory(), benchPlan()
	l, err := plan.layout()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Proof: new(Proof)}
	c, err := o.resolve(containers())
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(c, o)
	if err != nil {
		t.Fatal(err)
	}
	g := gatherer{layout: l, mem: m, frameSize: o.FrameSize}
	f := newFrame(o.FrameSize)
	f.out = make([]byte, 0, storedBound(o.FrameSize))
	i := uint64(1)
	work := func() {
		if f.err = g.fill(context.Background(), f, i); f.err == nil {
			f.err = w.encode(context.Background(), f)
		}
		if f.err != nil || !f.decoded {
			t.Fatalf("frame %d: decoded %v, %v", i, f.decoded, f.err)
		}
		o.Proof.add(f.hash, len(f.stored))
		i = i%50 + 1
	}
	o.Proof.begin(1 << 20)
	for range 60 {
		work()
	}
	if n := testing.AllocsPerRun(50, work); n > 0.5 {
		t.Errorf("%v allocations for a frame; want none", n)
	}
}
