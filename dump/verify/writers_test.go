package verify

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"

	"snap/dump"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// found is what is expected of a check.
type found struct {
	check, text string
}

// realHeader is a header that another tool wrote, which leads to the lab's guest: what
// says where things are is the lab's, all else is as it was written.
func realHeader(t *testing.T, l *lab, file string) []byte {
	t.Helper()
	h, err := os.ReadFile("../../header/testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	h = h[:header.Size64]
	for _, f := range []struct{ off, size int }{
		{0x10, 8}, {0x18, 24}, {0x34, 4}, {0x80, 8}, // the table, three addresses, processors, KDBG
		{0x88, 700}, // the runs
	} {
		copy(h[f.off:f.off+f.size], l.plan.Header[f.off:])
	}
	return h
}

// with is a dump with another header.
func with(h, b []byte) []byte { return append(slices.Clone(h), b[header.Size64:]...) }

// asWindowsWrites is a dump with a bitmap whose first page follows the bitmap at once,
// and which has the signature of a kernel dump, as those of Windows have.
func asWindowsWrites(b []byte) []byte {
	le := binary.LittleEndian
	first, bits := le.Uint64(b[0x2020:]), le.Uint64(b[0x2030:])
	at := 0x2038 + bits/8
	out := append(slices.Clone(b[:at]), b[first:]...)
	copy(out[0x2000:], "SDMP")
	put(out, 0x2020, 8, at)
	return put(out, 0xFA0, 8, uint64(len(out)))
}

// TestOtherWriters: dumps with headers as Windows, LiveKD and debuggers write them are
// none that can't be used, and what a reader has against them is said with its name.
func TestOtherWriters(t *testing.T) {
	const page32 = 0x45474150 // what Windows fills headers with
	unset := func(b []byte, offsets ...int) []byte {
		for _, at := range offsets {
			put(b, at, 4, page32)
		}
		return b
	}
	tests := []struct {
		name   string
		bitmap bool
		make   func(t *testing.T, l *lab, b []byte) []byte
		want   []found
	}{
		{"LiveKD's header", false, func(t *testing.T, l *lab, b []byte) []byte {
			h := realHeader(t, l, "livekd_win10_x64.bin")
			pages := binary.LittleEndian.Uint64(h[0x90:])
			return with(put(h, 0xFA0, 8, pages*phys.PageSize), b) // of all, but without the header
		}, []found{
			{CheckRequiredDumpSpace, "header and pages have"},
			{CheckVersion, "MinorVersion is 0x23f0; the guest says 0x4a65\nProductType is not set\nSuiteMask is not set\nBootId is not set"},
			{CheckHeaderContext, "bytes other than 0 behind"},
		}},
		{"Windows' own header", false, func(t *testing.T, l *lab, b []byte) []byte {
			h := put(realHeader(t, l, "triage_x64.bin"), 0xF98, 4, 1)
			return with(unset(h, 0x1038), b)
		}, []found{
			{CheckRequiredDumpSpace, "header and pages have"},
			{CheckExceptionRecord, "the header's context is at"},
			{CheckVersion, "MinorVersion is 0x4a61; the guest says 0x4a65"},
			{CheckHeaderContext, "no processor is at its instruction"},
		}},
		{"Windows' own header of a triage dump, as a full one", false, func(t *testing.T, l *lab, b []byte) []byte {
			return with(put(realHeader(t, l, "triage_x64.bin"), 0xF98, 4, 1), b)
		}, []found{
			{CheckRequiredDumpSpace, ""}, {CheckExceptionRecord, ""}, {CheckOtherFields, "MiniDumpFields 0xcff"}, {CheckVersion, ""}, {CheckHeaderContext, ""},
		}},
		{"KeInitializeCrashDumpHeader", false, func(_ *testing.T, _ *lab, b []byte) []byte {
			clear(b[0x348:0xF00])
			clear(b[0xF10:0xF18])
			return unset(b, 0xFA0, 0xFA4, 0xFB0, 0x1048)
		}, []found{{CheckRequiredDumpSpace, "not set"}, {CheckHasContext, "there is none"}}},
		{"PCID in the page table's address", false, set(0x10, 1, 2), []found{{CheckTableBits, "as a CR3 has (PCID)"}}},
		{"a live dump's attributes", false, set(0x1050, 4, 0x50), nil},
		{"a dump that was decrypted", false, set(0x1050, 4, 0x300), nil},
		{"fields that nobody set", false, func(_ *testing.T, _ *lab, b []byte) []byte {
			return unset(b, 0x1040, 0x1044, 0x1048, 0x1050, 0x1054, 0x8C)
		}, []found{{CheckVersion, "ProductType is not set"}}},
		{"an exception of its own", false, func(_ *testing.T, _ *lab, b []byte) []byte {
			return put(put(b, 0xF00, 4, 0xC0000005), 0xF18, 4, 2)
		}, []found{{CheckExceptionRecord, "code 0xc0000005"}}},
		{"another process's table, as Windows 7 writes", false, func(_ *testing.T, l *lab, b []byte) []byte {
			i := slices.IndexFunc(l.Truth.Processes, func(p ntlab.Process) bool { return p.PID != 4 })
			return put(b, 0x10, 8, uint64(l.Truth.Processes[i].DirectoryTableBase)|2)
		}, []found{{CheckTableBits, ""}, {CheckSystemTable, `which is that of "`}}},
		{"a page table that no process has", false, func(t *testing.T, l *lab, b []byte) []byte {
			return put(b, l.at(t, l.Truth.SystemProcess+0x28), 8, 0x3000)
		}, []found{{CheckSystemTable, "the page table of System is 0x3000; the header says"}}},
		{"secondary data", false, func(_ *testing.T, _ *lab, b []byte) []byte { return append(b, "DumpBlob and more"...) }, nil},

		{"SDMP in type 5, pages right behind the bitmap", true, func(_ *testing.T, _ *lab, b []byte) []byte { return asWindowsWrites(b) }, []found{
			{CheckMemflowBitmap, "signature SDMP in a dump of type 5; it takes FDMP only"},
			{CheckLeechCoreBitmap, "it takes a multiple of 0x1000 only"},
		}},
		{"a kernel dump", true, func(t *testing.T, l *lab, b []byte) []byte {
			spare, _ := l.Spare()
			entry, _ := l.EntryAddr(spare, 2)
			put(b, l.fileOffset(t, entry), 8, 0xA0000|0x63)
			return put(asWindowsWrites(b), 0xF98, 4, 6)
		}, []found{
			{CheckMemflowBitmap, "it takes type 5 only"},
			{CheckLeechCoreBitmap, ""},
			{CheckVolatilityBitmap, "they take type 5 only"},
			{CheckKernelDumpTables, "1 of"},
		}},
		{"bits that end anywhere", true, tail(3), []found{
			{CheckRadare2Bitmap, "signature FDMP"},
			{CheckLeechCoreBitmap, "no multiple of 64: the last 1 pages are dropped"},
			{CheckBitmapBytes, "no multiple of 8: the last 1 pages are dropped"},
		}},
		{"bits that end anywhere, without pages", true, func(_ *testing.T, _ *lab, b []byte) []byte {
			return put(b, 0x2030, 8, binary.LittleEndian.Uint64(b[0x2030:])+3)
		}, []found{{CheckRadare2Bitmap, "it takes SDMP only"}}},
	}
	l := newLab(t, ntlab.Config{})
	plain := map[bool][]byte{false: l.write(t, dump.Options{Compression: dump.CompressionNone})}
	l.bitmap(t)
	plain[true] = l.write(t, dump.Options{Compression: dump.CompressionNone})
	runs := l.header(t, l.plan.Runs)
	withBitmap := l.plan.Header
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l.plan.Header = runs
			if tt.bitmap {
				l.plan.Header = withBitmap
			}
			b := tt.make(t, l, bytes.Clone(plain[tt.bitmap]))
			r := verified(t, b, Options{SkipFrames: true})
			var got []string
			for i, c := range r.Findings() {
				got = append(got, c.Name)
				if level := levels[c.Name]; c.Level != level.level {
					t.Errorf("%s is of level %s; want %s", c.Name, c.Level, level.level)
				}
				if i < len(tt.want) && !strings.Contains(c.Detail, tt.want[i].text) {
					t.Errorf("%s says %q; want %q", c.Name, c.Detail, tt.want[i].text)
				}
			}
			var want []string
			for _, f := range tt.want {
				want = append(want, f.check)
			}
			if !r.OK || len(r.Skipped) > 0 || !slices.Equal(got, want) {
				t.Errorf("OK = %v, found %q, skipped %q; want true, %q, none", r.OK, got, r.Skipped, want)
			}
		})
	}
}

// TestBootIDOfOlder: a Windows that has no BootId in KUSER_SHARED_DATA isn't said to
// have another one than the header.
func TestBootIDOfOlder(t *testing.T) {
	b := newLab(t, ntlab.Config{Profile: "ws2003sp1-x64"}).write(t, dump.Options{Compression: dump.CompressionNone})
	r := verified(t, put(b, 0x1054, 4, 77), Options{SkipFrames: true})
	if found := r.Findings(); len(found) > 0 {
		t.Errorf("found %+v; want nothing", found)
	}
}
