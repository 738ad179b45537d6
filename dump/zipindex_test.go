package dump

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"snap/input"
	"snap/phys"
)

// TestZipIndexGroups makes indexes of any number of frames and reads them again: each
// group is as long as its frames together, wherever groups were joined.
func TestZipIndexGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frames := rapid.SampledFrom([]int{1, 2, 3, 1000, 16_000, 17_000, 65_536, 65_537, 65_539, 131_072, 131_075, 200_001}).Draw(t, "frames")
		alike := rapid.Bool().Draw(t, "alike")
		x := &zipIndex{frameSize: phys.PageSize, header: 2 * phys.PageSize}
		lengths := make([]uint64, frames)
		var stored uint64
		for i := range lengths {
			lengths[i] = 3000
			if !alike {
				lengths[i] = 1 + uint64(i)*7919%4000
			}
			x.add(lengths[i])
			stored += lengths[i]
		}
		field := x.encode()
		if field == nil || len(field) > maxZipIndex {
			t.Fatalf("%d frames have an index of %d bytes", frames, len(field))
		}
		m := deflatedMember(stored, uint64(frames)*phys.PageSize)
		table, err := readZipIndex(field, m)
		if frames == 1 {
			if !errors.Is(err, ErrFormat) { // less than the header
				t.Fatalf("an index of less than the header: %v", err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		group := 1 << field[1]
		if alike && group != 1 && frames <= maxZipGroups {
			t.Errorf("%d frames that are alike are in groups of %d", frames, group)
		}
		at, expanded := m.At, int64(0)
		for i := range table.count {
			f, err := table.frame(i)
			if err != nil {
				t.Fatal(err)
			}
			own := lengths[i*group : min((i+1)*group, frames)]
			var sum uint64
			for _, n := range own {
				sum += n
			}
			if f.at != at || uint64(f.stored) != sum || int(f.expanded) != len(own)*phys.PageSize || f.expandedAt != expanded {
				t.Fatalf("group %d of %d frames is %+v; want %d bytes at %#x, for %d at %#x", i, group, f, sum, at, len(own)*phys.PageSize, expanded)
			}
			at, expanded = at+int64(sum), expanded+int64(f.expanded)
		}
		if expanded != m.Expanded {
			t.Errorf("%d bytes are in groups; want %d", expanded, m.Expanded)
		}
	})
}

// TestZipIndexEnds: where a group would be larger than a reader takes there is no index,
// and the dump is read from its start.
func TestZipIndexEnds(t *testing.T) {
	x := &zipIndex{frameSize: MaxFrameSize, header: phys.PageSize}
	for i := range maxZipGroups {
		x.add(uint64(i))
	}
	if got := x.encode(); got != nil {
		t.Errorf("an index of %d bytes; want none", len(got))
	}
}

// TestHostileZipIndex: what an index may not say.
func TestHostileZipIndex(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{Compression: CompressionZip, FrameSize: 1 << 16})
	at := bytes.Index(stored, []byte{'S', 'P', byte(indexLength(t, stored)), byte(indexLength(t, stored) >> 8), zipIndexVersion}) + 4
	if at < 4 {
		t.Fatal("there is no index")
	}
	le := binary.LittleEndian
	for name, change := range map[string]func(b []byte){
		"another version":        func(b []byte) { b[0] = 2 },
		"groups that are large":  func(b []byte) { b[1] = 11 },
		"groups that are larger": func(b []byte) { b[1] = 200 },
		"fewer groups":           func(b []byte) { b[1] = 1 },
		"no frame size":          func(b []byte) { le.PutUint32(b[4:], 0) },
		"half a page":            func(b []byte) { le.PutUint32(b[4:], 2048) },
		"smaller frames":         func(b []byte) { le.PutUint32(b[4:], 1<<15) },
		"no header":              func(b []byte) { le.PutUint32(b[8:], 0) },
		"a header of 4 GiB":      func(b []byte) { le.PutUint32(b[8:], 1<<32-1) },
		"a frame of no bytes":    func(b []byte) { b[12], b[13] = 0, 0 },
		"a longer frame":         func(b []byte) { b[13]++ },
		"many frames":            func(b []byte) { b[12] |= 1 },
		"a number without end":   func(b []byte) { copy(b[12:], bytes.Repeat([]byte{0xff}, 12)) },
	} {
		bad := bytes.Clone(stored)
		change(bad[at:])
		if f, err := NewFile(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: NewFile = %v, %v; want ErrFormat", name, f, err)
		}
	}
}

// deflatedMember is a member of so many bytes in frames, which is nowhere.
func deflatedMember(stored, expanded uint64) *input.Member {
	return &input.Member{Deflated: true, At: 40, Stored: int64(stored) + int64(len(deflateEnd)), Expanded: int64(expanded)}
}

// indexLength returns the length of the index in an archive.
func indexLength(t *testing.T, stored []byte) int {
	t.Helper()
	m, err := input.OneMember(bytes.NewReader(stored), int64(len(stored)))
	if err != nil {
		t.Fatal(err)
	}
	return len(input.ExtraField(m.Extra, zipIndexField))
}
