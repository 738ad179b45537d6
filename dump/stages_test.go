package dump

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/internal/ntlab"
	"snap/store"
)

// kinds are what memory of a benchmark may hold.
var kinds = []struct {
	name string
	mix  ntlab.Mix
}{
	{"mixed", ntlab.Mix{Zero: 1, Text: 1, Structures: 1, Random: 1}},
	{"zero", ntlab.Mix{Zero: 1}},
	{"text", ntlab.Mix{Text: 1}},
	{"structures", ntlab.Mix{Structures: 1}},
	{"random", ntlab.Mix{Random: 1}},
	{"program", ntlab.Mix{}},
}

// kindSize is how much there is of a kind.
const kindSize = 32 << 20

// pagesOf makes memory of a kind: as a lab guest is filled, or this program's file over
// and over.
func pagesOf(b *testing.B, mix ntlab.Mix) []byte {
	b.Helper()
	if mix == (ntlab.Mix{}) {
		path, err := os.Executable()
		if err != nil {
			b.Fatal(err)
		}
		p, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		for len(p) < kindSize {
			p = append(p, p[:min(len(p), kindSize-len(p))]...)
		}
		return p[:kindSize]
	}
	im, err := ntlab.Build(ntlab.Config{Memory: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	if err := im.Fill(3*kindSize, mix); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, kindSize)
	if err := im.ReadPhys(b.Context(), p, kindSize); err != nil { // above what Windows has in low memory
		b.Fatal(err)
	}
	return p
}

// threadTime is the processor time of this thread.
func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// perByte runs work over pages in frames, b.N times, and reports its processor time for
// a byte.
func perByte(b *testing.B, pages []byte, frame int, work func(p []byte)) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.SetBytes(int64(len(pages)))
	b.ReportAllocs()
	n := 0
	start := threadTime(b)
	for b.Loop() {
		for at := 0; at < len(pages); at += frame {
			work(pages[at : at+frame])
		}
		n += len(pages)
	}
	b.ReportMetric(float64(threadTime(b)-start)/float64(n), "cpu-ns/B")
}

// BenchmarkStages is what each stage of the way of a frame takes, of memory that is
// mixed: read (a copy), zero (a look for pages of zeros), compress, verify (decode and
// compare), hash (of what is stored), sum and write (of a file in memory; they go on
// side by side), read back (and hash).
func BenchmarkStages(b *testing.B) {
	pages := pagesOf(b, kinds[0].mix)
	o := Options{Proof: new(Proof)}
	c, err := o.resolve(containers())
	if err != nil {
		b.Fatal(err)
	}
	w, err := newWorker(c, o)
	if err != nil {
		b.Fatal(err)
	}
	f := newFrame(o.FrameSize)
	f.out = make([]byte, 0, storedBound(o.FrameSize))
	stage := func(name string, work func(p []byte)) {
		b.Run(name, func(b *testing.B) { perByte(b, pages, o.FrameSize, work) })
	}
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	stage("read", func(p []byte) { copy(f.in, p) })
	stage("zero", func(p []byte) { countZero(p) })
	compress := func(p []byte) { f.stored, err = w.enc.encode(f.out, p); must(err) }
	stage("compress", compress)
	stage("compress+hash", func(p []byte) { w.dec = nil; compress(p); must(w.prove(b.Context(), f)) })
	stage("compress+hash+verify", func(p []byte) {
		if w.dec == nil {
			w.dec, err = c.decoder(o)
			must(err)
		}
		f.in = p
		compress(p)
		must(w.prove(b.Context(), f))
	})
	for _, sum := range []bool{false, true} {
		b.Run(map[bool]string{false: "write", true: "write+sum"}[sum], func(b *testing.B) {
			place := store.Folder(memoryFolder(b), store.Options{NoSum: !sum})
			b.SetBytes(kindSize)
			b.ReportAllocs()
			for b.Loop() {
				out, err := place.Create(b.Context(), "f")
				must(err)
				for at := 0; at < kindSize; at += maxBlock {
					_, err := lending(out).Write(pages[at : at+maxBlock])
					must(err)
				}
				must(out.Abort())
			}
		})
	}
	b.Run("read back", func(b *testing.B) {
		stored, proof := proved(b, benchPlan(), newBenchMemory(), Options{})
		x := opened(b, stored)
		b.SetBytes(int64(len(stored)))
		b.ReportAllocs()
		for b.Loop() {
			must(x.CheckStored(context.Background(), proof, nil))
		}
	})
}

// memoryFolder is a folder in memory, so that no disk is measured.
func memoryFolder(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "snap-bench-")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// BenchmarkLevels is what each level makes of each kind of memory, by frames of several
// sizes where it is the default: what is left of a byte, and the processor time that
// compressing and expanding it take (docs/benchmarks/compression.md).
func BenchmarkLevels(b *testing.B) {
	for _, kind := range kinds {
		pages := pagesOf(b, kind.mix)
		for _, c := range containers() {
			for _, level := range Levels() {
				for _, frame := range []int{256 << 10, 1 << 20, 2 << 20, 4 << 20} {
					plain := c.plain && level != LevelFastest
					if plain || frame != DefaultFrameSize && (level != LevelFastest || c.name != CompressionZstd) {
						continue
					}
					b.Run(fmt.Sprintf("%s/%s-%s-%dK", kind.name, c.name, level, frame>>10), func(b *testing.B) {
						benchLevel(b, pages, c, Options{Compression: c.name, Level: level, FrameSize: frame})
					})
				}
			}
		}
	}
}

func benchLevel(b *testing.B, pages []byte, c container, o Options) {
	if _, err := o.resolve([]container{c}); err != nil {
		b.Fatal(err)
	}
	w, err := newWorker(c, o)
	if err != nil {
		b.Fatal(err)
	}
	f := newFrame(o.FrameSize)
	f.out = make([]byte, 0, storedBound(o.FrameSize))
	var stored, expanded uint64
	var encode, decode time.Duration
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.SetBytes(int64(len(pages)))
	b.ReportAllocs()
	for b.Loop() {
		for at := 0; at < len(pages); at += o.FrameSize {
			p := pages[at : at+o.FrameSize]
			start := threadTime(b)
			if f.stored, err = w.enc.encode(f.out, p); err != nil {
				b.Fatal(err)
			}
			encoded := threadTime(b)
			encode += encoded - start
			stored += uint64(len(f.stored))
			expanded += uint64(len(p))
			if w.dec == nil {
				continue
			}
			if _, err = w.dec.decode(w.scratch, f.stored, len(p)); err != nil {
				b.Fatal(err)
			}
			decode += threadTime(b) - encoded
		}
	}
	b.ReportMetric(float64(stored)/float64(expanded), "ratio")
	b.ReportMetric(float64(encode)/float64(expanded), "encode-ns/B")
	b.ReportMetric(float64(decode)/float64(expanded), "decode-ns/B")
}
