package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/hv/hvtest"
	"snap/phys"
)

func TestLiMEAndAVML(t *testing.T) {
	im := newImage(0)
	for name, b := range map[string][]byte{
		"LiME":                  filetest.LiME(im.ranges()),
		"AVML, a range each":    filetest.AVML(im.ranges(), 64<<20),
		"AVML, blocks of 1 MiB": filetest.AVML(im.ranges(), 1<<20),
	} {
		src, err := Open(t.Context(), writeFile(t, b), Options{})
		if err != nil {
			t.Errorf("%s: Open failed: %v", name, err)
			continue
		}
		t.Run(name, func(t *testing.T) {
			hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return open(t, src) }, hvtest.Options{Want: im})
		})
		if regs, err := src.Registers(t.Context()); err != nil || len(regs) != 0 {
			t.Errorf("%s: Registers() = %v, %v; want none", name, regs, err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLiMEUneven: ranges that firmware ends in the middle of a page lose the part of
// a page at their ends, and no more.
func TestLiMEUneven(t *testing.T) {
	content := bytes.Repeat([]byte{7}, 0x9ec00-0x1000)
	copy(content, "at 0x1000")
	b := append(filetest.RangeHeader("EMiL", 1, 0x1000, 0x9ebff), content...)
	b = append(b, filetest.RangeHeader("EMiL", 1, 0x100800, 0x102fff)...)
	b = append(b, bytes.Repeat([]byte{9}, 0x2800)...)
	src, err := Open(t.Context(), writeFile(t, b), Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	m := open(t, src)
	defer m.Close()
	if want := (phys.Runs{{Base: 1, Pages: 0x9d}, {Base: 0x101, Pages: 2}}); !slices.Equal(m.RAM(), want) {
		t.Errorf("RAM() = %v; want %v", m.RAM(), want)
	}
	p := make([]byte, 9)
	if err := m.ReadPhys(t.Context(), p, 0x1000); err != nil || string(p) != "at 0x1000" {
		t.Errorf("ReadPhys(0x1000) = %q, %v", p, err)
	}
	if err := m.ReadPhys(t.Context(), p, 0x101000); err != nil || p[0] != 9 {
		t.Errorf("ReadPhys(0x101000) = %v, %v; want nines", p, err)
	}
}

func TestLiMEAndAVMLRefuse(t *testing.T) {
	page := bytes.Repeat([]byte("page "), 820)[:phys.PageSize]
	lime := append(filetest.RangeHeader("EMiL", 1, 0, phys.PageSize-1), page...)
	avml := filetest.AVMLRange(0, page)
	change := func(b []byte, off int, v ...byte) []byte { b = bytes.Clone(b); copy(b[off:], v); return b }
	crcless := binary.LittleEndian.AppendUint32([]byte{0x00, 0x08, 0, 0}, crc32.ChecksumIEEE(nil))
	for _, tt := range []struct {
		name string
		file []byte
		want error
		say  string
	}{
		{"LiME of version 2", change(lime, 4, 2), hv.ErrUnsupported, "version 2"},
		{"LiME, cut in a header", append(bytes.Clone(lime), "EMiL"...), hv.ErrFormat, "cut short"},
		{"LiME, cut in the memory", lime[:len(lime)-1], hv.ErrFormat, "cut short"},
		{"LiME, backwards", change(lime, 8, 0, 0x20), hv.ErrFormat, "memory from"},
		{"LiME, past the address space", change(lime, 16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), hv.ErrFormat, "memory from"},
		{"LiME, overlapping", append(bytes.Clone(lime), lime...), hv.ErrFormat, "overlaps"},
		{"LiME and something", append(bytes.Clone(lime), bytes.Repeat([]byte("else"), 20)...), hv.ErrFormat, "no range begins"},
		{"LiME and AVML", append(bytes.Clone(lime), avml...), hv.ErrFormat, "compressed"},
		{"AVML and LiME", append(bytes.Clone(avml), lime...), hv.ErrFormat, "not compressed"},
		{"AVML of version 1", change(avml, 4, 1), hv.ErrUnsupported, "version 1"},
		{"AVML, cut in the memory", avml[:60], hv.ErrFormat, "cut short"},
		{"AVML, cut before the trailer", avml[:len(avml)-8], hv.ErrFormat, "cut short"},
		{"AVML, another trailer", change(avml, len(avml)-8, 1), hv.ErrFormat, "trailer"},
		{"AVML, the same again", append(bytes.Clone(avml), avml...), hv.ErrFormat, "comes after"},
		{"AVML, a range too short", change(avml, 16, 0xfe, 0x0f), hv.ErrFormat, "reaches over"},
		{"AVML, unknown chunk", change(avml, 32, 0x40), hv.ErrFormat, "type 0x40"},
		{"AVML, a large chunk", append(filetest.RangeHeader("AVML", 2, 0, phys.PageSize-1), append(crcless, 0xff, 0xff, 0x7f, 0)...), hv.ErrFormat, "expands to"},
		{"AVML of padding", append(filetest.RangeHeader("AVML", 2, 0, phys.PageSize-1), bytes.Repeat([]byte{0xfe, 0, 0, 0}, 1000)...), hv.ErrFormat, "in a row"},
	} {
		_, err := Open(t.Context(), writeFile(t, tt.file), Options{})
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: Open = %v; want %v saying %q", tt.name, err, tt.want, tt.say)
		}
	}
	// Damage inside of a chunk is a gap: of what is compressed, and of the checksum
	// (behind the header, the stream's first chunk and the chunk's own header).
	for _, at := range []int{60, limeHeader + 10 + snappyHeader} {
		src, err := Open(t.Context(), writeFile(t, change(avml, at, ^avml[at])), Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, src)
		if err := m.ReadPhys(t.Context(), make([]byte, 8), 0); !phys.IsGap(err) || !errors.Is(err, hv.ErrFormat) {
			t.Errorf("ReadPhys of a chunk damaged at %d = %v; want a gap", at, err)
		}
		if err := errors.Join(m.Close(), src.Close()); err != nil {
			t.Error(err)
		}
	}
}

func FuzzLiME(f *testing.F) {
	f.Add(append(filetest.RangeHeader("EMiL", 1, 0x800, 0x27ff), make([]byte, 0x2000)...))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, lime(), b) })
}

func FuzzAVML(f *testing.F) {
	f.Add(filetest.AVMLRange(0x1000, bytes.Repeat([]byte("page "), 4096)))
	f.Add(append(filetest.AVMLRange(0, make([]byte, 4096)), filetest.AVMLRange(0x100000, make([]byte, 8192))...))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, avml(), b) })
}
