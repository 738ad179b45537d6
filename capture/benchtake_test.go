package capture

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"snap/dump"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/store"
)

// benchFill is how much of BenchmarkTake's guest holds something.
const benchFill = 512 << 20

// BenchmarkTake is a whole dump into a file in memory: a guest of 1 GiB, half of it
// filled with equal parts of zero, text-like, structure-like and random pages, that is
// copied while it stands still. cpu-ms is the processor time of all of it, and x-cpu
// against that of compressing the same pages and nothing else.
func BenchmarkTake(b *testing.B) {
	vm := newBenchVM(b)
	for _, c := range dump.Compressions() {
		for _, v := range dump.Verifications() {
			b.Run(fmt.Sprintf("%s-%s", c, v), func(b *testing.B) {
				o := Options{Mode: Pause{}, MemoryCopy: 4 << 30}
				o.Write.Compression, o.Write.Verification = c, v
				place := store.Folder(memoryFolder(b), store.Options{Force: true})
				var whole, bare time.Duration
				b.SetBytes(benchFill)
				b.ReportAllocs()
				for b.Loop() {
					start := spent(b)
					if _, err := Take(b.Context(), vm, place, "bench", o); err != nil {
						b.Fatal(err)
					}
					whole += spent(b) - start
					b.StopTimer()
					start = spent(b)
					vm.compress(b)
					bare += spent(b) - start
					b.StartTimer()
				}
				b.ReportMetric(float64(whole.Milliseconds())/float64(b.N), "cpu-ms")
				b.ReportMetric(float64(whole)/float64(bare), "x-cpu")
			})
		}
	}
}

// benchVM is an image whose pages were made up beforehand.
type benchVM struct {
	*imageVM
	pages *memoryCopy
}

// benchMemory is the copy of a guest that outlasts its dumps.
type benchMemory struct{ *memoryCopy }

func (benchMemory) Close() error { return nil }

func (v *benchVM) OpenMemory(context.Context, hv.Mechanism) (hv.Memory, error) {
	return benchMemory{v.pages}, nil
}

func newBenchVM(b *testing.B) *benchVM {
	vm := newGuest(b, ntlab.Config{Memory: 1 << 30})
	if err := vm.im.Fill(benchFill, ntlab.Mix{Zero: 1, Text: 1, Structures: 1, Random: 1}); err != nil {
		b.Fatal(err)
	}
	mem, err := vm.OpenMemory(b.Context(), hv.MechanismAuto)
	if err != nil {
		b.Fatal(err)
	}
	set := vm.im.Populated()
	memory, err := newHostMemory(set.Pages() * 4096)
	if err != nil {
		b.Fatal(err)
	}
	c, err := newMemoryCopy(memory, mem, set, true)
	if err == nil {
		err = c.fill(b.Context(), mem, 2)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return &benchVM{vm, c}
}

// compress compresses all populated pages as dump does by default, in frames of 1 MiB
// on two processors, straight from memory.
func (v *benchVM) compress(b *testing.B) {
	var wg sync.WaitGroup
	frames := make(chan []byte)
	for range 2 {
		wg.Go(func() {
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(dump.DefaultFrameSize), zstd.WithSingleSegment(true))
			if err != nil {
				b.Error(err)
			}
			var out []byte
			for f := range frames {
				out = enc.EncodeAll(f, out[:0])
			}
		})
	}
	memory := v.pages.layout.(flatLayout)[:v.pages.index.Pages()*4096]
	for len(memory) > 0 {
		n := min(len(memory), dump.DefaultFrameSize)
		frames <- memory[:n]
		memory = memory[n:]
	}
	close(frames)
	wg.Wait()
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

// spent is the processor time of this process so far.
func spent(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
