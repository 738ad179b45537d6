package header

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// As many runs as fit, at offsets that are written down here again.
func TestEncodeTheMostRuns(t *testing.T) {
	for _, tt := range []struct {
		file                 string
		n, count, run, width int
	}{
		{"livekd_win10_x64.bin", 42, 0x88, 0x98, 8},
		{"livekd_win7_x86.bin", 86, 0x64, 0x6C, 4},
	} {
		b := realHeader(t, tt.file)
		h, err := Decode(b)
		if err != nil {
			t.Fatalf("Decode(%s) failed: %v", tt.file, err)
		}
		h.Runs, h.NumberOfPages = manyRuns(tt.n), uint64(tt.n)
		got, err := h.Encode()
		if err != nil {
			t.Errorf("%s with %d runs: Encode failed: %v", tt.file, tt.n, err)
			continue
		}
		if n := binary.LittleEndian.Uint32(got[tt.count:]); n != uint32(tt.n) {
			t.Errorf("%s: NumberOfRuns = %d; want %d", tt.file, n, tt.n)
		}
		for i := range tt.n {
			at := tt.run + 2*tt.width*i
			if base, pages := got[at], got[at+tt.width]; base != byte(2*i+1) || pages != 1 {
				t.Errorf("%s: run %d = {%d, %d}; want {%d, 1}", tt.file, i, base, pages, 2*i+1)
			}
		}
		end := tt.run + 2*tt.width*tt.n
		if end > tt.count+700 || !bytes.Equal(got[tt.count+700:], b[tt.count+700:]) {
			t.Errorf("%s: the runs end at %#x and changed what follows the descriptor", tt.file, end)
		}
		back, err := Decode(got)
		if err != nil || !cmp.Equal(back.Runs, h.Runs) {
			t.Errorf("%s: Decode = %v; want the %d runs", tt.file, err, tt.n)
		}
	}
}

// Fewer runs leave nothing of the old ones.
func TestEncodeFewerRuns(t *testing.T) {
	h, err := Decode(realHeader(t, "livekd_win10_x64.bin"))
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	h.Runs, h.NumberOfPages = []phys.Run{{Base: 0x100, Pages: 2}}, 2
	got, err := h.Encode()
	if err != nil {
		t.Fatalf("Encode failed: %v", err)
	}
	want := "\x01\x00\x00\x00PAGE" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x01\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" + "PAGEPAGE"
	if string(got[0x88:0x88+len(want)]) != want {
		t.Errorf("descriptor = % x; want % x", got[0x88:0x88+len(want)], want)
	}
	if n := bytes.Count(got[0xA8:0x348], []byte("PAGE")); n != (0x348-0xA8)/4 {
		t.Errorf("%d words after the run are unset; want all %d", n, (0x348-0xA8)/4)
	}
}

// A bitmap dump made of a full one has no runs: its descriptor is zero, as
// Windows leaves it.
func TestEncodeWithoutRuns(t *testing.T) {
	h, err := Decode(realHeader(t, "livekd_win10_x64.bin"))
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	h.DumpType, h.Runs, h.NumberOfPages = DumpTypeBitmapFull, nil, 0
	got, err := h.Encode()
	if err != nil {
		t.Fatalf("Encode failed: %v", err)
	}
	if n := bytes.Count(got[0x90:0x344], []byte{0}); n != 0x344-0x90 || got[0x88] != 0 {
		t.Errorf("%d bytes of the descriptor are zero; want all", n)
	}
	if h, err = Decode(got); err != nil || h.Runs != nil {
		t.Errorf("Decode = %v runs, %v; want none", h.Runs, err)
	}
}

func TestDescribes(t *testing.T) {
	h := &Header{Runs: []phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x100}}}
	for _, tt := range []struct {
		name string
		runs []phys.Run
		want bool
	}{
		{"the same", []phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x100}}, true},
		{"in another order", []phys.Run{{Base: 0x100, Pages: 0x100}, {Base: 1, Pages: 0x9F}}, true},
		{"split", []phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x80}, {Base: 0x180, Pages: 0x80}}, true},
		{"memory added", []phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x101}}, false},
		{"memory added at the end", []phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x100}, {Base: 0x1000, Pages: 1}}, false},
		{"memory removed", []phys.Run{{Base: 1, Pages: 0x9F}}, false},
		{"as much elsewhere", []phys.Run{{Base: 0, Pages: 0x9F}, {Base: 0x100, Pages: 0x100}}, false},
		{"none", nil, false},
		{"no run at all", []phys.Run{{Base: 1, Pages: 0}}, false},
	} {
		if got := h.Describes(tt.runs); got != tt.want {
			t.Errorf("%s: Describes(%v) = %v; want %v", tt.name, tt.runs, got, tt.want)
		}
	}
	bad := &Header{Runs: []phys.Run{{Base: 1, Pages: 0}}}
	if bad.Describes(bad.Runs) {
		t.Errorf("a header with an empty run describes something")
	}
}
