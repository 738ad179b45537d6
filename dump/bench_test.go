package dump

import (
	"context"
	"io"
	"testing"

	"snap/phys"
	"snap/store"
)

// benchMemory is 256 MiB of made-up pages, one third of them zero. Reading it
// costs a copy, as reading a guest in this host's memory does.
type benchMemory struct{ pages []byte }

const benchPages = 1 << 16

func newBenchMemory() *benchMemory {
	m := &benchMemory{make([]byte, 0, 64<<20)}
	for p := range phys.PFN(cap(m.pages) / phys.PageSize) {
		m.pages = append(m.pages, fakePage(p)...)
	}
	return m
}

func (m *benchMemory) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for n := 0; n < len(p); {
		n += copy(p[n:], m.pages[(int(at)+n)%len(m.pages):])
	}
	return nil
}

func benchPlan() *Plan {
	runs := []phys.Run{{Base: 0x100, Pages: benchPages}}
	return &Plan{Header: testHeader(runs), Runs: runs}
}

// BenchmarkWrite is the whole writer. BenchmarkReadLimit and
// BenchmarkCompressLimit are what its two halves could do on one processor.
func BenchmarkWrite(b *testing.B) {
	m := newBenchMemory()
	for _, bb := range []struct {
		name string
		o    Options
	}{
		{"zstd", Options{}},
		{"zstd-1worker", Options{Workers: 1}},
		{"zstd-default", Options{Level: LevelDefault}},
		{"gzip", Options{Compression: CompressionGzip}},
		{"none", Options{Compression: CompressionNone}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			p := benchPlan()
			b.SetBytes(benchPages * phys.PageSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Write(context.Background(), io.Discard, m, p, bb.o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWriteHashed is the whole writer and a place that hashes what it takes.
func BenchmarkWriteHashed(b *testing.B) {
	m, p := newBenchMemory(), benchPlan()
	b.SetBytes(benchPages * phys.PageSize)
	for b.Loop() {
		f := stdoutFile(b, io.Discard)
		if _, err := Write(context.Background(), f, m, p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExpand is the way back, to a file.
func BenchmarkExpand(b *testing.B) {
	stored, _ := written(b, benchPlan(), newBenchMemory(), Options{})
	f := opened(b, stored)
	b.SetBytes(benchPages * phys.PageSize)
	for b.Loop() {
		out := storeFile(b, b.TempDir(), store.Options{NoSum: true})
		if _, err := Expand(context.Background(), f, out, nil); err != nil {
			b.Fatal(err)
		}
		if err := out.Abort(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteScattered leaves out every fifth page: one read for four pages.
func BenchmarkWriteScattered(b *testing.B) {
	m := newBenchMemory()
	p := benchPlan()
	var left phys.Runs
	for pfn := p.Runs[0].Base + 4; pfn < p.Runs[0].End(); pfn += 5 {
		left = append(left, phys.Run{Base: pfn, Pages: 1})
	}
	p.Runs = phys.Runs(p.Runs).Minus(left)
	p.Header = bitmapHeader(p.Runs)
	b.SetBytes(int64(phys.Runs(p.Runs).Pages() * phys.PageSize))
	for b.Loop() {
		if _, err := Write(context.Background(), io.Discard, m, p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteEmpty is 64 GiB of guest of which nothing is populated.
func BenchmarkWriteEmpty(b *testing.B) {
	p := benchPlan()
	p.Runs[0].Pages = 16 << 20
	p.Header = testHeader(p.Runs)
	p.Populated = phys.Runs{}
	b.SetBytes(64 << 30)
	for b.Loop() {
		if _, err := Write(context.Background(), io.Discard, nil, p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadLimit(b *testing.B) {
	m := newBenchMemory()
	buf := make([]byte, DefaultFrameSize)
	b.SetBytes(benchPages * phys.PageSize)
	for b.Loop() {
		for off := 0; off < benchPages*phys.PageSize; off += len(buf) {
			if err := m.ReadPhys(context.Background(), buf, phys.Addr(off)); err != nil {
				b.Fatal(err)
			}
			countZero(buf)
		}
	}
}

func BenchmarkCompressLimit(b *testing.B) {
	m := newBenchMemory()
	var o Options
	c, err := o.resolve(containers())
	if err != nil {
		b.Fatal(err)
	}
	enc, err := c.encoder(o)
	if err != nil {
		b.Fatal(err)
	}
	out := make([]byte, 0, storedBound(o.FrameSize))
	b.SetBytes(int64(len(m.pages)))
	for b.Loop() {
		for off := 0; off < len(m.pages); off += o.FrameSize {
			if _, err := enc.encode(out, m.pages[off:off+o.FrameSize]); err != nil {
				b.Fatal(err)
			}
		}
	}
}
