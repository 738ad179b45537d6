package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"snap/phys"
)

// chain is a table of frames of these expanded sizes that lie one behind the other,
// each stored in 3 bytes more than the one before.
func chain(expanded []uint32) ([]frameRef, frameWalk, int64) {
	var frames []frameRef
	var at, expandedAt int64
	for i, n := range expanded {
		f := frameRef{at: at, expandedAt: expandedAt, entry: entry{stored: uint32(3*i + 1), expanded: n}}
		frames = append(frames, f)
		at, expandedAt = at+int64(f.stored), expandedAt+int64(n)
	}
	walk := func(from place, use func(place, frameRef) (bool, error)) error {
		for i := slices.IndexFunc(frames, func(f frameRef) bool { return f.at == from.at }); i < len(frames); i++ {
			f := frames[i]
			f.expandedAt = 0
			if more, err := use(place{at: f.at}, f); err != nil || !more {
				return err
			}
		}
		return nil
	}
	return frames, walk, at
}

// TestTableAgainstModel: what a table that holds next to nothing says of its frames
// is what a list of them says.
func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Uint32Range(1, 1<<16), 1, 40).Draw(t, "sizes")
		var expanded []uint32
		for range rapid.SampledFrom([]int{1, 7, 150}).Draw(t, "times") {
			expanded = append(expanded, sizes...)
		}
		// Frames of this kind are stored in too much for their length.
		for i := range expanded {
			expanded[i] += uint32(3 * i)
		}
		frames, walk, end := chain(expanded)
		table, err := newFrameTable(end, walk)
		if err != nil {
			t.Fatal(err)
		}
		last := frames[len(frames)-1]
		if want := last.expandedAt + int64(last.expanded); table.size != want || table.count != len(frames) || table.largest != int(slices.Max(expanded)) {
			t.Fatalf("%d frames of %d, %d bytes; want %d of %d, %d", table.count, table.largest, table.size, len(frames), slices.Max(expanded), want)
		}
		for range 20 {
			off := rapid.Int64Range(0, table.size-1).Draw(t, "offset")
			f, i, err := table.find(off)
			if err != nil || f != frames[i] || off < f.expandedAt || off >= f.expandedAt+int64(f.expanded) {
				t.Fatalf("find(%d) = %+v, %d, %v; want %+v", off, f, i, err, frames[i])
			}
		}
		kind := rapid.Uint32Range(1, 1000).Draw(t, "kind")
		next := table.stretches(func(f frameRef) bool { return f.expanded/1000%2 == kind%2 })
		var got []frameRef
		for {
			s, more, err := next()
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			if s.first != len(got) {
				t.Fatalf("a stretch from frame %d comes after %d frames", s.first, len(got))
			}
			got = append(got, s.frames...)
		}
		if !slices.Equal(got, frames) {
			t.Fatalf("stretches give %d frames; want %d", len(got), len(frames))
		}
	})
}

// emptyGuest is a dump of so many pages of zeros, in frames of a page, but for one
// page in the middle.
func emptyGuest(t *testing.T, pages uint64) (stored, want []byte, header int) {
	runs := []phys.Run{{Base: 0x100, Pages: pages}}
	p := &Plan{Header: testHeader(runs), Runs: runs, Populated: phys.Runs{}}
	p.Overlays = []Overlay{{At: phys.PFN(0x100 + pages/2).Addr(), Data: []byte("here"), What: "it"}}
	m := &fakeMemory{}
	stored, _ = written(t, p, m, Options{FrameSize: phys.PageSize})
	return stored, expected(p, m), len(p.Header) / phys.PageSize
}

// TestFramesOfZeros: frames that are equal to one of zeros are not expanded, nor read
// one by one, and are proven for all that: a byte of one that is another is found.
func TestFramesOfZeros(t *testing.T) {
	stored, want, header := emptyGuest(t, 6000)
	r := &countingReader{ReaderAt: bytes.NewReader(stored)}
	f, err := NewFile(r, int64(len(stored)))
	if err != nil {
		t.Fatal(err)
	}
	r.reads = 0
	body := f.body.(*framedBody)
	counter := &countingExpander{expander: body.exp}
	body.exp = counter
	if err := inOne(func() error { return f.CheckFrames(context.Background(), nil) }); err != nil {
		t.Errorf("CheckFrames failed: %v", err)
	}
	if most := 100; r.reads > most || counter.frames > header+3 {
		t.Errorf("6000 frames of zeros took %d reads and %d were expanded; want at most %d, %d", r.reads, counter.frames, most, header+3)
	}
	f = opened(t, stored)
	sameBytes(t, "expanded", expandedBytes(t, f), want)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "read", got, want)

	frames := framesOf(t, f)
	ref := frames[2000]
	for i := range int(ref.stored) {
		bad := flipped(stored, int(ref.at)+i)
		if err := exercise(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("byte %d of a frame of zeros changed: %v; want ErrFormat", i, err)
		}
	}
	bad := resealed(stored, func(e []entry) []entry { e[2000].sum++; return e })
	if err := exercise(bad); !errors.Is(err, ErrFormat) {
		t.Errorf("another checksum in the table: %v; want ErrFormat", err)
	}
}

// inOne runs f on one processor, so that it is known in which order things are done.
func inOne(f func() error) error {
	defer setProcessors(1)()
	return f()
}

type countingExpander struct {
	expander
	frames int
}

func (c *countingExpander) expand(dst, src []byte, f frameRef) ([]byte, error) {
	c.frames++
	return c.expander.expand(dst, src, f)
}

// TestTableChanges: a file whose table becomes another one after it was opened gives
// errors, not what lies elsewhere.
func TestTableChanges(t *testing.T) {
	stored, want, _ := emptyGuest(t, tableStep*tableBlocks*2)
	changing := bytes.Clone(stored)
	f := opened(t, changing)
	page := make([]byte, phys.PageSize)
	at := int64(len(want)) / 2 &^ (phys.PageSize - 1)
	if _, err := f.ReadAt(page, at); err != nil || !bytes.Equal(page, want[at:at+phys.PageSize]) {
		t.Fatalf("ReadAt(%#x) = %v", at, err)
	}
	first := len(changing) - 9 - 12*int(binary.LittleEndian.Uint32(changing[len(changing)-9:]))
	for name, change := range map[string]func(entry []byte){
		"a frame is longer":          func(e []byte) { e[0]++ },
		"a frame expands to more":    func(e []byte) { binary.LittleEndian.PutUint32(e[4:], 2*phys.PageSize) },
		"a frame holds no data":      func(e []byte) { clear(e[4:8]) },
		"a frame has another length": func(e []byte) { clear(e[:4]) },
	} {
		for _, n := range []int{300, 1000, tableStep*tableBlocks*2 - 1} {
			copy(changing, stored)
			change(changing[first+12*n:])
			for i := range f.body.(*framedBody).table.blocks {
				f.body.(*framedBody).table.blocks[i].Store(nil)
			}
			_, _, err := f.body.(*framedBody).table.find(int64(n) * phys.PageSize)
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%s, entry %d: %v; want ErrFormat", name, n, err)
			}
		}
	}
}

// TestTableTakesNoMemory: what a table holds doesn't grow as its frames do.
func TestTableTakesNoMemory(t *testing.T) {
	const frames = 1 << 18
	b := make([]byte, 0, frames*12)
	for range frames {
		b = binary.LittleEndian.AppendUint32(b, 45)
		b = binary.LittleEndian.AppendUint32(b, 1<<20)
		b = binary.LittleEndian.AppendUint32(b, 7)
	}
	start := int64(frames * 45)
	table := &seekTable{r: shifted{bytes.NewReader(b), start + 8}, at: start + 8, n: frames, entrySize: 12, checksums: true}
	n := testing.AllocsPerRun(1, func() {
		if _, err := table.frames(); err != nil {
			t.Fatal(err)
		}
	})
	got, err := table.frames()
	if err != nil {
		t.Fatal(err)
	}
	if size := cap(got.marks) * 24; size > 64<<10 || n > 50 {
		t.Errorf("the table of 256 GiB holds %d bytes, and takes %v allocations; want at most 64 KiB, 50", size, n)
	}
	if got.size != 256<<30 {
		t.Errorf("it is of %d bytes; want 256 GiB", got.size)
	}
}

// shifted is a file of which only what lies from an offset on is there.
type shifted struct {
	r  io.ReaderAt
	by int64
}

func (s shifted) ReadAt(p []byte, off int64) (int, error) { return s.r.ReadAt(p, off-s.by) }

// holey is a plain dump in whose holes nobody may read.
type holey struct {
	*bytes.Reader
	t    *testing.T
	data []part
}

func (h *holey) ReadAt(p []byte, off int64) (int, error) {
	for _, d := range h.data {
		if off >= d.off && off+int64(len(p)) <= d.off+d.size {
			return h.Reader.ReadAt(p, off)
		}
	}
	h.t.Errorf("%d bytes are read at %#x, which is a hole", len(p), off)
	return 0, io.EOF
}

func (h *holey) NextData(off, end int64) (lo, hi int64, err error) {
	for _, d := range h.data {
		if at := max(off, d.off); at < d.off+d.size {
			return min(at, end), min(d.off+d.size, end), nil
		}
	}
	return end, end, nil
}

// TestHolesOfPlainDumps: a hole of a plain dump is not read, and is a hole when it is
// expanded.
func TestHolesOfPlainDumps(t *testing.T) {
	runs := []phys.Run{{Base: 0x100, Pages: 2048}}
	b := append(testHeader(runs), make([]byte, 2048*phys.PageSize)...)
	copy(b[5<<20:], "data")
	for name, data := range map[string][]part{
		"a hole at the end":    {{off: 0, size: 0x2000}, {off: 5 << 20, size: 4096}},
		"data at the end":      {{off: 0, size: 0x3000}, {off: 5 << 20, size: int64(len(b)) - 5<<20}},
		"data of three chunks": {{off: 0, size: 1<<20 + 1}, {off: 2 << 20, size: int64(len(b)) - 2<<20}},
	} {
		f, err := NewFile(&holey{bytes.NewReader(b), t, data}, int64(len(b)))
		if err != nil {
			t.Fatalf("%s: NewFile failed: %v", name, err)
		}
		var progress Progress
		if err := f.CheckFrames(context.Background(), &progress); err != nil || progress.Done.Load() != uint64(len(b)) {
			t.Errorf("%s: CheckFrames = %v, with %d bytes done; want %d", name, err, progress.Done.Load(), len(b))
		}
		sameBytes(t, name, expandedBytes(t, f), b)
	}
}

// TestDivided: the parts of a piece are the piece, and only holes that begin and end
// where they may are left out.
func TestDivided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const block = holeSize / 4
		blocks := rapid.SliceOfN(rapid.Bool(), 0, 40).Draw(t, "blocks")
		data := make([]byte, len(blocks)*block+rapid.IntRange(0, block-1).Draw(t, "rest"))
		for i, full := range blocks {
			if full {
				data[i*block+rapid.IntRange(0, block-1).Draw(t, "at")] = 1
			}
		}
		off := rapid.Int64Range(0, 3*holeSize).Draw(t, "off")
		got := make([]byte, len(data))
		at, last := off, true
		for q := range divided(part{off, int64(len(data)), data}) {
			hole := q.data == nil
			if q.off != at || q.size <= 0 || !hole && int64(len(q.data)) != q.size || at > off && hole == last {
				t.Fatalf("part of %d bytes at %d behind %d, hole %v", q.size, q.off, at, hole)
			}
			if hole && (q.off != off && q.off%holeSize != 0 || (q.off+q.size)%holeSize != 0 && q.off+q.size != off+int64(len(data))) {
				t.Fatalf("hole at %#x of %#x", q.off, q.size)
			}
			copy(got[q.off-off:], q.data)
			at, last = q.off+q.size, hole
		}
		if at != off+int64(len(data)) || !bytes.Equal(got, data) {
			t.Fatalf("parts end at %d and give other bytes", at)
		}
	})
}

// zeroOutside fails if a page of f that is not in its populated set is anything but
// zeros in all, the expanded bytes. It returns how many such pages there are.
func zeroOutside(t testing.TB, f *File, all []byte) (pages uint64) {
	t.Helper()
	set, known, err := f.Populated(context.Background())
	if err != nil {
		t.Fatalf("Populated failed: %v", err)
	}
	if left := set.Minus(f.RAM()); len(left) > 0 {
		t.Fatalf("Populated has %v, which is not in the dump", left)
	}
	if !known {
		return 0
	}
	at := int(f.layout.start)
	for _, r := range f.RAM() {
		for pfn := r.Base; pfn < r.End() && at+phys.PageSize <= len(all); pfn++ {
			if !set.Has(pfn) {
				pages++
				if !isZero(all[at : at+phys.PageSize]) {
					t.Fatalf("page %#x is not populated, and isn't zeros", uint64(pfn))
				}
			}
			at += phys.PageSize
		}
	}
	return pages
}

// TestPopulated: the pages that a dump doesn't say to be populated are zeros, in every
// container; those of whole frames of zeros and of holes are among them.
func TestPopulated(t *testing.T) {
	p, m := sparsePlan(t)
	want := expected(p, m)
	for _, head := range [][]byte{p.Header, bitmapHeader(p.Runs)} {
		p.Header = head
		want := expected(p, m)
		for _, c := range []Compression{CompressionZstd, CompressionGzip} {
			for _, size := range []int{phys.PageSize, 3 * phys.PageSize, 1 << 16} {
				stored, _ := written(t, p, m, Options{Compression: c, FrameSize: size})
				zeros := uint64(0)
				for at := len(head); at < len(want); at += size {
					if frame := want[at:min(at+size, len(want))]; isZero(frame) {
						zeros += uint64(len(frame)) / phys.PageSize
					}
				}
				if got := zeroOutside(t, opened(t, stored), want); got != zeros || zeros == 0 {
					t.Errorf("%s, frames of %d: %d pages are not populated; want the %d of frames of zeros", c, size, got, zeros)
				}
			}
		}
	}
	p.Header = testHeader(p.Runs)
	first := part{off: 0, size: 0x2000 + 1}
	last := part{off: 0x2000 + 5*phys.PageSize - 1, size: int64(len(want))}
	last.size -= last.off
	b := bytes.Clone(want)
	clear(b[first.size:last.off])
	f, err := NewFile(&holey{bytes.NewReader(b), t, []part{first, last}}, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got := zeroOutside(t, f, b); got != 3 {
		t.Errorf("plain with a hole over pages 1 to 3: %d pages are not populated; want 3", got)
	}
	f = opened(t, want[:0x2000+100*phys.PageSize-1])
	if set, _, err := f.Populated(context.Background()); err != nil || len(f.RAM().Minus(set)) > 0 {
		t.Errorf("Populated of a dump that is cut short = %v, %v; want all that isn't there", set, err)
	}
	stored, want, header := emptyGuest(t, 600)
	ref := framesOf(t, opened(t, stored))[header+100]
	f = opened(t, flipped(stored, int(ref.at)+8))
	if set, known, err := f.Populated(context.Background()); err != nil || !known || !set.Has(0x100+100) || set.Pages() > 300 {
		t.Errorf("Populated of a dump with a damaged frame of zeros = %v, %v, %v; want the frame in it", set, known, err)
	}
	f = opened(t, plainGzip(t, want))
	if set, known, err := f.Populated(context.Background()); known || err != nil || !slices.Equal(set, f.RAM()) {
		t.Errorf("Populated of gzip without random access = %v, %v, %v; want all of it, and not known", set, known, err)
	}
}
