package dump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"snap/phys"
)

// fuzzBudget bounds what a fuzzed file may expand to.
const fuzzBudget = 8 << 20

// FuzzSeekable opens arbitrary bytes as a dump and reads what they claim to
// hold: no panic, no more than the file says, and the same bytes by every way.
// Frames are decoded by several goroutines, so coverage is not the same each
// time and -fuzzminimizetime 1x keeps the fuzzer from minimizing for ever.
func FuzzSeekable(f *testing.F) {
	p, m := smallPlan(f)
	p.Runs = p.Runs[2:]
	p.Header, p.Overlays = testHeader(p.Runs), nil
	for _, c := range Compressions() {
		stored, _ := written(f, p, m, Options{Compression: c, FrameSize: 4 * phys.PageSize, Metadata: someMetadata})
		f.Add(stored)
	}
	p.Header = bitmapHeader(p.Runs)
	for _, c := range []Compression{CompressionGzip, CompressionZip, CompressionNone} {
		stored, _ := written(f, p, m, Options{Compression: c, FrameSize: 4 * phys.PageSize})
		f.Add(stored)
	}
	f.Add(plainGzip(f, expected(p, m)))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := NewFile(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if file != nil {
				t.Fatalf("NewFile gives both a file and %v", err)
			}
			return
		}
		defer func() { _ = file.Close() }()
		if file.Size() > fuzzBudget {
			return
		}
		all := make([]byte, file.Size())
		err = file.body.each(context.Background(), func(_ context.Context, p part) error {
			if p.off < 0 || p.off+p.size > int64(len(all)) || p.data != nil && int64(len(p.data)) != p.size {
				t.Fatalf("%d bytes, and %d, at %d of a dump of %d", len(p.data), p.size, p.off, len(all))
			}
			copy(all[p.off:], p.data)
			return nil
		})
		if err != nil {
			return
		}
		if _, err := file.Header(); err == nil && file.Complete() == nil {
			for _, r := range file.RAM() {
				page := make([]byte, phys.PageSize)
				if err := file.ReadPhys(context.Background(), page, (r.End() - 1).Addr()); err != nil && !errors.Is(err, ErrSequential) {
					t.Fatalf("a page of a dump that is whole can't be read: %v", err)
				}
			}
		}
		again := make([]byte, len(all))
		n, err := file.ReadAt(again, 0)
		if errors.Is(err, ErrSequential) {
			return
		}
		if n != len(all) || (err != nil && !errors.Is(err, io.EOF)) || !bytes.Equal(all, again) {
			t.Fatalf("ReadAt = %d, %v; want the %d bytes that a full read gives", n, err, len(all))
		}
		if _, err := file.Header(); err == nil {
			zeroOutside(t, file, all)
		}
	})
}
