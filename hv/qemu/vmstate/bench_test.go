package vmstate

import (
	"bytes"
	"testing"
)

// benchmarkParse is given a stream of one block of pages.
func benchmarkParse(b *testing.B, pages uint64, record func(name string, page uint64) []byte) {
	var part bytes.Buffer
	part.Write(record("a", 0))
	for i := range pages - 1 {
		part.Write(record("", i+1))
	}
	stream := newTestStream().blocks(testBlock{"a", pages << 12}).part(part.Bytes()).bytes()
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := Parse(stream, Options{})
		if err != nil || s.Data+s.Zero != pages {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(pages)*float64(b.N)/b.Elapsed().Seconds(), "pages/s")
}

func BenchmarkParseData(b *testing.B) {
	page := content(1)
	benchmarkParse(b, 1<<15, func(name string, i uint64) []byte { return dataPage(name, i, page) })
}

func BenchmarkParseZero(b *testing.B) {
	benchmarkParse(b, 1<<20, zeroPage)
}

// BenchmarkParseMixed changes between the kinds at each page, and the block too.
func BenchmarkParseMixed(b *testing.B) {
	page := content(1)
	benchmarkParse(b, 1<<15, func(_ string, i uint64) []byte {
		if i%2 == 0 {
			return zeroPage("a", i)
		}
		return dataPage("a", i, page)
	})
}

func BenchmarkRuns(b *testing.B) {
	block := newBlock("a", 16<<30, nil)
	for i := range block.pages() {
		if i%3 == 0 {
			block.setZero(i)
		} else {
			block.setData(i, 1)
		}
	}
	for b.Loop() {
		n := uint64(0)
		for r := range block.Runs(Data) {
			n += r.Pages
		}
		if n == 0 {
			b.Fatal("no runs")
		}
	}
}
