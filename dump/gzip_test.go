package dump

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"

	"snap/phys"
)

// plainGzip is b as gzip makes it: one member that does not say its length.
func plainGzip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// member makes a member by hand: deflate is its stream, size what it says of
// its length, and expanded what it says of the length expanded.
func member(deflate []byte, size, sum, expanded uint32) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, 'S', 'P', 4, 0}, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[16:], size)
	b = append(b, deflate...)
	b = binary.LittleEndian.AppendUint32(b, sum)
	return binary.LittleEndian.AppendUint32(b, expanded)
}

// storedBlock is a deflate stream of one block without compression.
func storedBlock(p []byte) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{1}, uint16(len(p)))
	return append(binary.LittleEndian.AppendUint16(b, ^uint16(len(p))), p...)
}

// goodMember is a member of p that is in order.
func goodMember(p []byte) []byte {
	d := storedBlock(p)
	return member(d, uint32(28+len(d)), crc32.ChecksumIEEE(p), uint32(len(p)))
}

// TestMembersSayTheirLength walks a file by the offsets of RFC 1952.
func TestMembersSayTheirLength(t *testing.T) {
	p, m := sparsePlan(t)
	stored, s := written(t, p, m, Options{Compression: CompressionGzip, FrameSize: 1 << 16})
	var expanded uint64
	members := 0
	for rest := stored; len(rest) > 0; members++ {
		n := binary.LittleEndian.Uint32(rest[16:])
		if !bytes.Equal(rest[:4], []byte{0x1f, 0x8b, 8, 4}) || !bytes.Equal(rest[10:16], []byte{8, 0, 'S', 'P', 4, 0}) || int(n) > len(rest) {
			t.Fatalf("member %d of %d bytes begins % x", members, n, rest[:20])
		}
		expanded += uint64(binary.LittleEndian.Uint32(rest[n-4:]))
		rest = rest[n:]
	}
	if expanded != s.DumpBytes || members != 45 { // 8 KiB of header, 689 pages in 44 frames
		t.Errorf("%d members of %d bytes; want 45 of %d", members, expanded, s.DumpBytes)
	}
	c := opened(t, stored).Container()
	want := Container{CompressionGzip, int64(len(stored)), true, 45, 1 << 16, true, false}
	if c != want {
		t.Errorf("Container() = %+v; want %+v", c, want)
	}
}

// TestMembersByHand: the reader goes by the format and not by what the writer
// happens to make.
func TestMembersByHand(t *testing.T) {
	p, m := smallPlan(t)
	want := expected(p, m)
	var stored []byte
	for rest, n := want, 0; len(rest) > 0; rest = rest[n:] {
		n = min(len(rest), 3*phys.PageSize)
		stored = append(stored, goodMember(rest[:n])...)
	}
	f := opened(t, stored)
	sameBytes(t, "expanded", expandedBytes(t, f), want)
	got := make([]byte, 5*phys.PageSize)
	if _, err := f.ReadAt(got, 0x4567); err != nil {
		t.Fatalf("ReadAt failed: %v", err)
	}
	sameBytes(t, "ReadAt", got, want[0x4567:0x4567+len(got)])
}

// TestSequentialGzip: gzip that others made can be expanded, not looked into.
func TestSequentialGzip(t *testing.T) {
	p, m := smallPlan(t)
	for _, head := range [][]byte{p.Header, bitmapHeader(p.Runs)} {
		p.Header = head
		want := expected(p, m)
		stored := plainGzip(t, want)
		f := opened(t, stored)
		if c := f.Container(); c != (Container{Compression: CompressionGzip, FileSize: int64(len(stored))}) {
			t.Errorf("Container() = %+v; want gzip without random access", c)
		}
		if f.Size() != int64(len(want)) || f.RAM().Pages() != 689 {
			t.Errorf("Size() = %d with %d pages; want %d, 689", f.Size(), f.RAM().Pages(), len(want))
		}
		if _, err := f.ReadAt(make([]byte, 8), 0); !errors.Is(err, ErrSequential) {
			t.Errorf("ReadAt = %v; want ErrSequential", err)
		}
		if err := f.ReadPhys(context.Background(), make([]byte, 8), 0x1000); !errors.Is(err, ErrSequential) {
			t.Errorf("ReadPhys = %v; want ErrSequential", err)
		}
		if err := f.CheckFrames(context.Background(), nil); err != nil {
			t.Errorf("CheckFrames failed: %v", err)
		}
		sameBytes(t, "expanded", expandedBytes(t, f), want)

		for name, bad := range map[string][]byte{
			"more behind the dump": append(bytes.Clone(stored), plainGzip(t, []byte("more"))...),
			"cut":                  stored[:len(stored)-9],
			"cut in the header":    stored[:40],
			"wrong checksum":       flipped(stored, len(stored)-8),
			"a triage dump":        plainGzip(t, append(append(bytes.Clone(want[:0xf98]), 4), want[0xf99:]...)),
		} {
			if err := exercise(bad); !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v; want ErrFormat", name, err)
			}
		}
	}
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

// TestHostileMembers: what is refused when a file is opened, and what when the
// member is read.
func TestHostileMembers(t *testing.T) {
	p, m := smallPlan(t)
	p.Runs, p.Overlays = p.Runs[:1], nil
	p.Header = testHeader(p.Runs)
	want := expected(p, m)
	page := want[len(want)-phys.PageSize:]
	head := goodMember(want[:0x2000])
	for rest := want[0x2000 : len(want)-phys.PageSize]; len(rest) > 0; rest = rest[phys.PageSize:] {
		head = append(head, goodMember(rest[:phys.PageSize])...)
	}
	d, sum := storedBlock(page), crc32.ChecksumIEEE(page)
	n := uint32(28 + len(d))
	if err := exercise(slices.Concat(head, member(d, n, sum, 4096))); err != nil {
		t.Fatalf("members in order: %v", err)
	}
	opening := map[string][]byte{
		"member of no length":            member(d, 0, sum, 4096),
		"first member of 3 bytes":        member(d, 3, sum, 4096),
		"member shorter than its header": member(d, 29, sum, 4096),
		"member one byte too short":      member(d, n-1, sum, 4096),
		"member one byte too long":       member(d, n+1, sum, 4096),
		"member of 4 GiB":                member(d, 1<<32-1, sum, 4096),
		"nothing expanded":               member(d, n, sum, 0),
		"part of a page":                 member(d, n, sum, 4095),
		"more than the largest frame":    member(d, n, sum, MaxFrameSize+4096),
		"more than deflate can":          member([]byte{3, 0}, 30, sum, 32*1024),
		"stored in too much":             member(append(d, make([]byte, 2000)...), n+2000, sum, 4096),
		"a plain member":                 plainGzip(t, page),
		"zeros":                          make([]byte, 100),
		"the start of a member":          member(d, n, sum, 4096)[:19],
	}
	for name, last := range opening {
		b := slices.Concat(head, last)
		if name == "first member of 3 bytes" {
			b = last
		}
		if f, err := NewFile(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: NewFile = %v, %v; want ErrFormat", name, f, err)
		}
	}
	// The stream of two pages of zeros, from between gzip's header and trailer.
	zeros := plainGzip(t, make([]byte, 8192))
	zeros = zeros[10 : len(zeros)-8]
	reading := map[string][]byte{
		"wrong checksum":          member(d, n, sum+1, 4096),
		"less than it says":       member(d, n, sum, 8192),
		"more than it says":       member(zeros, uint32(28+len(zeros)), crc32.ChecksumIEEE(make([]byte, 4096)), 4096),
		"something behind it":     joined(goodMember(page), []byte{0, 0, 0, 0, 0, 16, 0, 0}),
		"two members in one":      joined(goodMember(nil), goodMember(page)),
		"no deflate stream":       member(append([]byte{7}, d[1:]...), n, sum, 4096),
		"a stream without an end": member(append([]byte{0}, d[1:]...), n, sum, 4096),
	}
	for name, last := range reading {
		b := slices.Concat(head, last)
		f, err := NewFile(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Errorf("%s: NewFile failed: %v", name, err)
			continue
		}
		if err := f.CheckFrames(context.Background(), nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: CheckFrames = %v; want ErrFormat", name, err)
		}
		if _, err := f.ReadAt(make([]byte, 1), int64(len(want))-1); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: ReadAt = %v; want ErrFormat", name, err)
		}
		_ = f.Close()
	}
}

// joined is a member with more behind it, all of which it says to be its own.
func joined(m, more []byte) []byte {
	b := append(bytes.Clone(m), more...)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(b)))
	return b
}

// countingReader counts its reads, and fails from an offset on.
type countingReader struct {
	io.ReaderAt
	reads  int
	broken int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	if c.broken > 0 && off >= c.broken {
		return 0, io.ErrNoProgress
	}
	return c.ReaderAt.ReadAt(p, off)
}

// TestSmallMembersTakeFewReads: opening a file of the smallest members costs no
// read for each.
func TestSmallMembersTakeFewReads(t *testing.T) {
	runs := []phys.Run{{Base: 1, Pages: 5000}}
	p := &Plan{Header: testHeader(runs), Runs: runs, Populated: phys.Runs{}}
	stored, _ := written(t, p, &fakeMemory{}, Options{Compression: CompressionGzip, FrameSize: phys.PageSize})
	r := &countingReader{ReaderAt: bytes.NewReader(stored)}
	table, err := readMembers(r, int64(len(stored)))
	if err != nil || table.count != 5002 {
		t.Fatalf("readMembers = %+v, %v; want 5002 members", table, err)
	}
	if most := 5002 / 6; r.reads > most {
		t.Errorf("%d reads; want at most %d", r.reads, most)
	}
	r.broken = int64(len(stored)) / 2
	if _, err := readMembers(r, int64(len(stored))); !errors.Is(err, io.ErrNoProgress) || errors.Is(err, ErrFormat) {
		t.Errorf("readMembers of a file that can't be read = %v; want its error", err)
	}
}
