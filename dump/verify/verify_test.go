package verify

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"snap/dump"
	"snap/internal/ntlab"
	"snap/phys"
)

func TestGoodDumps(t *testing.T) {
	configs := map[string]ntlab.Config{
		"":             {},
		"plain KDBG":   {PlainKDBG: true},
		"KPTI":         {KPTI: true, UserMode: true},
		"straddling":   {StraddleKDBG: true},
		"4 KiB pages":  {SmallPages: true},
		"one CPU":      {CPUs: 1},
		"above 4 GiB":  {Machine: "i440fx", Memory: 6 << 30, CPUs: 8},
		"blue screen":  {BugCheck: [5]uint64{0xE2, 1, 2, 3, 4}},
		"no low stub":  {NoLowStub: true},
		"monitor only": {MonitorRegisters: true},
	}
	for _, profile := range ntlab.Profiles() {
		for name, c := range configs {
			c.Profile = profile
			if !c.Possible() {
				continue
			}
			t.Run(profile+"/"+name, func(t *testing.T) {
				r := verified(t, newLab(t, c).write(t, dump.Options{}), Options{})
				for _, c := range r.Findings() {
					t.Errorf("%s: %s: %s", c.Level, c.Name, c.Detail)
				}
				// All but those of a bitmap, that of a kernel dump and that of one without a KDBG.
				const others = 9
				if !r.OK || len(r.Skipped) > 0 || len(r.Checks) != len(checks())-others {
					t.Errorf("OK = %v with %d checks, %q skipped; want true, %d, none", r.OK, len(r.Checks), r.Skipped, len(checks())-others)
				}
			})
		}
	}
}

// corruption changes the bytes of a plain dump.
type corruption struct {
	name string
	want string // the one check that must fail
	make func(t *testing.T, l *lab, b []byte) []byte
}

// set returns a change of n bytes at an offset in the header.
func set(off, n int, value uint64) func(*testing.T, *lab, []byte) []byte {
	return func(_ *testing.T, _ *lab, b []byte) []byte { return put(b, off, n, value) }
}

// add returns a change of a 32-bit field of the header by 1.
func add(off int) func(*testing.T, *lab, []byte) []byte {
	return func(_ *testing.T, _ *lab, b []byte) []byte {
		return put(b, off, 4, uint64(binary.LittleEndian.Uint32(b[off:]))+1)
	}
}

// in returns a change of n bytes in the guest, where the lab says.
func in(where func(*testing.T, *lab) phys.VirtAddr, n int, value uint64) func(*testing.T, *lab, []byte) []byte {
	return func(t *testing.T, l *lab, b []byte) []byte { return put(b, l.at(t, where(t, l)), n, value) }
}

func put(b []byte, off, n int, value uint64) []byte {
	var v [8]byte
	binary.LittleEndian.PutUint64(v[:], value)
	copy(b[off:off+n], v[:])
	return b
}

// Places in the guest, by the public layouts of ntkrnlmp and wdbgexts.h.
func kdbgField(off phys.VirtAddr) func(*testing.T, *lab) phys.VirtAddr {
	return func(_ *testing.T, l *lab) phys.VirtAddr { return l.Truth.KDBG + off }
}

// kdbgPointer is what a field of the KDBG points to.
func kdbgPointer(off int) func(*testing.T, *lab) phys.VirtAddr {
	return func(_ *testing.T, l *lab) phys.VirtAddr { return l.kdbg(off) }
}

func contextOf(cpu int, off phys.VirtAddr) func(*testing.T, *lab) phys.VirtAddr {
	return func(_ *testing.T, l *lab) phys.VirtAddr { return l.Truth.Processors[cpu].Context + off }
}

func kernelModule(off phys.VirtAddr) func(*testing.T, *lab) phys.VirtAddr {
	return func(t *testing.T, l *lab) phys.VirtAddr { return l.pointer(t, l.Truth.PsLoadedModuleList) + off }
}

func systemProcess(off phys.VirtAddr) func(*testing.T, *lab) phys.VirtAddr {
	return func(_ *testing.T, l *lab) phys.VirtAddr { return l.Truth.SystemProcess + off }
}

var corruptions = []corruption{
	{"machine that does not exist", CheckHeader, set(0x30, 4, 0x1234)},
	{"dump type that does not exist", CheckHeader, set(0xF98, 4, 77)},

	{"one run more", CheckRuns, add(0x88)},
	{"no runs", CheckRuns, set(0x88, 4, 0)},
	{"1000 runs", CheckRuns, set(0x88, 4, 1000)},
	{"one page more", CheckRuns, add(0x90)},
	{"run of no pages", CheckRuns, set(0xA0, 8, 0)},
	{"runs out of order", CheckRuns, set(0xA8, 8, 0)},
	{"padding of the runs", CheckOtherFields, set(0x8C, 4, 7)},

	{"triage dump", CheckKind, set(0xF98, 4, 4)},
	{"ARM64", CheckKind, set(0x30, 4, 0xAA64)},

	{"last page missing", CheckFileSize, func(_ *testing.T, _ *lab, b []byte) []byte { return b[:len(b)-phys.PageSize] }},
	{"last byte missing", CheckFileSize, func(_ *testing.T, _ *lab, b []byte) []byte { return b[:len(b)-1] }},
	{"space", CheckRequiredDumpSpace, add(0xFA0)},

	{"exception code", CheckExceptionRecord, add(0xF00)},
	{"exception flags", CheckExceptionRecord, set(0xF04, 4, 0)},
	{"nested exception", CheckExceptionRecord, set(0xF08, 8, 0xFFFFF80000001000)},
	{"exception elsewhere", CheckExceptionRecord, set(0xF10, 8, 0xFFFFF80000001000)},
	{"exception parameters", CheckExceptionRecord, set(0xF18, 4, 2)},

	{"writer failed", CheckOtherFields, set(0x1048, 4, 1)},
	{"obsolete contexts", CheckOtherFields, set(0x104D, 1, 1)},
	{"encrypted", CheckEncryption, set(0x1050, 4, 0x100)},
	{"minidump fields", CheckOtherFields, set(0x1038, 4, 0xCFF)},
	{"secondary data", CheckOtherFields, set(0x103C, 4, 2)},
	{"comment without end", CheckOtherFields, func(_ *testing.T, _ *lab, b []byte) []byte {
		copy(b[0xFB0:], bytes.Repeat([]byte("c"), 128))
		return b
	}},

	{"bits of a CR3", CheckTableBits, func(_ *testing.T, _ *lab, b []byte) []byte { b[0x10] |= 2; return b }},
	{"page table not in the dump", CheckDirectoryTable, set(0x10, 8, 0xA0000)},
	{"page table beyond memory", CheckDirectoryTable, set(0x10, 8, 1<<40)},
	{"page table that is none", CheckDirectoryTable, func(_ *testing.T, l *lab, b []byte) []byte {
		return put(b, 0x10, 8, uint64(l.Truth.DirectoryTableBase)+phys.PageSize)
	}},
	{"page table of another process", CheckSystemTable, func(t *testing.T, l *lab, b []byte) []byte {
		for _, p := range l.Truth.Processes {
			if p.PID != 4 && p.DirectoryTableBase != l.Truth.DirectoryTableBase {
				return put(b, 0x10, 8, uint64(p.DirectoryTableBase))
			}
		}
		t.Fatal("the guest has one process")
		return nil
	}},
	{"a table is not in the dump", CheckPageTables, func(t *testing.T, l *lab, b []byte) []byte {
		spare, _ := l.Spare()
		entry, ok := l.EntryAddr(spare, 2)
		if !ok {
			t.Fatal("the spare area has no page table")
		}
		return put(b, l.fileOffset(t, entry), 8, 0xA0000|0x63)
	}},

	{"no KUSER", CheckKUSER, func(t *testing.T, l *lab, b []byte) []byte {
		clear(b[l.at(t, 0xFFFFF78000000000):][:phys.PageSize])
		return b
	}},

	{"KDBG tag", CheckKDBG, in(kdbgField(0x10), 4, 0x4742444C)},
	{"KDBG size", CheckKDBG, in(kdbgField(0x14), 4, 7)},
	{"KDBG left encoded", CheckKDBG, func(t *testing.T, l *lab, b []byte) []byte {
		block := make([]byte, len(l.Truth.KDBGPlain))
		if err := l.ReadVirt(l.Truth.KDBG, block); err != nil {
			t.Fatal(err)
		}
		copy(b[l.at(t, l.Truth.KDBG):], block)
		return b
	}},
	{"KDBG elsewhere", CheckKDBG, func(_ *testing.T, l *lab, b []byte) []byte { return put(b, 0x80, 8, uint64(l.Truth.KDBG)+8) }},
	{"KDBG nowhere", CheckKDBG, set(0x80, 8, 0xFFFFF80000000000)},
	{"no KDBG", CheckNoKDBG, set(0x80, 8, 0)},

	{"module list head", CheckListHeads, func(_ *testing.T, l *lab, b []byte) []byte {
		return put(b, 0x20, 8, uint64(l.Truth.PsLoadedModuleList)+8)
	}},
	{"process list head", CheckListHeads, func(_ *testing.T, l *lab, b []byte) []byte {
		return put(b, 0x28, 8, uint64(l.Truth.PsActiveProcessHead)+16)
	}},

	{"kernel without MZ", CheckKernel, in(func(_ *testing.T, l *lab) phys.VirtAddr { return l.Truth.KernelBase }, 2, 0)},
	{"kernel of another machine", CheckKernel, func(t *testing.T, l *lab, b []byte) []byte {
		pe := l.Truth.KernelBase + l.pointer(t, l.Truth.KernelBase+0x3C)&0xffff
		return put(b, l.at(t, pe+4), 2, 0xAA64)
	}},
	{"KernBase of another image", CheckKernel, func(t *testing.T, l *lab, b []byte) []byte {
		return put(b, l.at(t, l.Truth.KDBG+0x18), 8, uint64(l.Truth.Modules[1].Base))
	}},

	{"build", CheckVersion, add(0x0C)},
	{"checked build", CheckVersion, set(0x08, 4, 0xC)},
	{"product", CheckVersion, add(0x1040)},
	{"suite", CheckVersion, add(0x1044)},
	{"boot id", CheckVersion, add(0x1054)},
	{"no time", CheckVersion, set(0xFA8, 8, 0)},
	{"no uptime", CheckVersion, set(0x1030, 8, 0xFFFFFFFFFFFF)},

	{"module list leads nowhere", CheckModules, in(func(_ *testing.T, l *lab) phys.VirtAddr { return l.Truth.PsLoadedModuleList }, 8, 0x1000)},
	{"module list without the kernel", CheckModules, in(kernelModule(0x30), 8, 0xFFFFF80000100000)},
	{"module of no size", CheckModules, in(kernelModule(0x40), 4, 0)},

	{"System has another page table", CheckSystemTable, in(systemProcess(0x28), 8, 0x3000)},
	{"process list leads nowhere", CheckProcesses, func(t *testing.T, l *lab, b []byte) []byte {
		return put(b, l.at(t, l.pointer(t, l.Truth.PsActiveProcessHead)), 8, 0xFFFFF80000000008)
	}},

	{"one processor more", CheckProcessors, add(0x34)},
	{"no processors", CheckProcessors, set(0x34, 4, 0)},
	{"KiProcessorBlock without the last", CheckProcessors, func(t *testing.T, l *lab, b []byte) []byte {
		last := len(l.Truth.Processors) - 1
		return put(b, l.at(t, l.kdbg(0x218)+phys.VirtAddr(8*last)), 8, 0)
	}},

	{"MxCsr twice", CheckContexts, in(contextOf(1, 0x34), 4, 0x1F00)},
	{"no context", CheckContexts, func(t *testing.T, l *lab, b []byte) []byte {
		for i := range phys.VirtAddr(0x4D0) {
			b[l.at(t, l.Truth.Processors[1].Context+i)] = 0
		}
		return b
	}},
	{"context flags", CheckContexts, in(contextOf(2, 0x30), 4, 0x10001)},
	{"null SS", CheckContexts, in(contextOf(2, 0x42), 2, 0)},
	{"null DS", CheckContexts, in(contextOf(0, 0x3A), 2, 0)},
	{"EFLAGS", CheckContexts, in(contextOf(1, 0x44), 4, 0)},
	{"RIP", CheckContexts, in(contextOf(1, 0xF8), 8, 0x8000_0000_0000_0000)},
	{"RSP", CheckContexts, in(contextOf(1, 0x98), 8, 0x8000_0000_0000_0000)},
	{"RIP that only 5-level paging has", CheckContexts, in(contextOf(1, 0xF8), 8, 0xFF00_0000_0000_0000)},

	{"header's RSP", CheckHeaderContext, add(0x348 + 0x98)},
	{"header's MxCsr", CheckMxCsr, add(0x348 + 0x34)},
	{"bytes behind the header's context", CheckHeaderContext, set(0x348+0x4D0, 1, 1)},
	{"no header context", CheckHasContext, func(_ *testing.T, _ *lab, b []byte) []byte {
		clear(b[0x348 : 0x348+0xBB8])
		clear(b[0xF10:0xF18])
		return b
	}},
	{"header context of 32-bit code", CheckContextMode, set(0x348+0x38, 2, 0x23)},

	{"kernel below the system's range", CheckKernelRange, in(kdbgPointer(0x1D0), 8, 0xFFFFFF0000000000)},
	{"system's range of a process", CheckKernelRange, in(kdbgPointer(0x1D0), 8, 0x7FF000000000)},
	{"system's range nowhere", CheckKernelRange, in(kdbgField(0x1D0), 8, 0xFFFFF80000000000)},
	{"bug check data nowhere", CheckBugCheckData, in(kdbgField(0x88), 8, 0xFFFFF80000000000)},
	{"bug check data unknown", CheckBugCheckData, in(kdbgField(0x88), 8, 0)},
	{"memory block nowhere", CheckMemoryBlock, in(kdbgPointer(0x270), 8, 0xFFFFF80000000000)},
	{"memory block of no runs", CheckMemoryBlock, func(t *testing.T, l *lab, b []byte) []byte {
		return put(b, l.at(t, l.pointer(t, l.kdbg(0x270))), 4, 0)
	}},
}

// levels is how much each check matters, and to whom.
var levels = map[string]struct {
	level   Level
	readers string
}{
	CheckHeader: {"fail", ""}, CheckRuns: {"fail", ""}, CheckBitmap: {"fail", ""}, CheckKind: {"fail", ""},
	CheckFileSize: {"fail", ""}, CheckEncryption: {"fail", ""}, CheckDirectoryTable: {"fail", ""},
	CheckPageTables: {"fail", ""}, CheckKUSER: {"fail", ""}, CheckKDBG: {"fail", ""}, CheckListHeads: {"fail", ""},
	CheckKernel: {"fail", ""}, CheckModules: {"fail", ""}, CheckProcesses: {"fail", ""}, CheckFrames: {"fail", ""},

	CheckMemflowRuns: {"limit", "[memflow]"}, CheckMemflowBitmap: {"limit", "[memflow]"},
	CheckRadare2Bitmap: {"limit", "[radare2]"}, CheckLeechCoreBitmap: {"limit", "[LeechCore]"},
	CheckLeechCoreFirst: {"limit", "[LeechCore]"}, CheckBitmapBytes: {"limit", "[kdmp-parser radare2]"}, CheckVolatilityBitmap: {"limit", "[volatility 2 volatility3]"},
	CheckNoKDBG: {"limit", "[WinDbg]"}, CheckKernelRange: {"limit", "[WinDbg]"}, CheckBugCheckData: {"limit", "[WinDbg]"}, CheckMemoryBlock: {"limit", "[WinDbg]"},
	CheckProcessors: {"limit", "[WinDbg]"}, CheckContexts: {"limit", "[WinDbg]"}, CheckContextMode: {"limit", "[WinDbg]"},
	CheckMxCsr: {"limit", "[kdmp-parser]"},

	CheckTableBits: {"note", ""}, CheckRequiredDumpSpace: {"note", ""}, CheckExceptionRecord: {"note", ""},
	CheckOtherFields: {"note", ""}, CheckKernelDumpTables: {"note", ""}, CheckVersion: {"note", ""},
	CheckSystemTable: {"note", ""}, CheckHasContext: {"note", ""}, CheckHeaderContext: {"note", ""},
}

// TestLevels: each check declares its level and readers, and needs none that isn't of
// the gravest level, since a finding of another keeps no reader from going on.
func TestLevels(t *testing.T) {
	all := map[string]check{}
	for _, c := range checks() {
		all[c.name] = c
		want, ok := levels[c.name]
		if readers := fmt.Sprint(c.readers); !ok || c.level != want.level || readers != cmp.Or(want.readers, "[]") {
			t.Errorf("%q is of level %q for %s; want %+v", c.name, c.level, readers, want)
		}
		for _, need := range c.needs {
			if all[need].level != LevelFail {
				t.Errorf("%q needs %q, of level %q; want one of fail, made before", c.name, need, all[need].level)
			}
		}
		if c.meant != "" && c.level == LevelFail || c.whole && c.level != LevelFail {
			t.Errorf("%q of level %q: meant %q, whole %v", c.name, c.level, c.meant, c.whole)
		}
	}
	if len(all) != len(levels) {
		t.Errorf("%d checks; want %d", len(all), len(levels))
	}
}

// tail gives the bitmap another last page and so many bits, of which readers that
// count in words drop the last. The page that it had last goes.
func tail(bits uint64) func(*testing.T, *lab, []byte) []byte {
	return func(_ *testing.T, _ *lab, b []byte) []byte {
		size := binary.LittleEndian.Uint64(b[0x2030:])
		last := size - 1
		for b[0x2038+last/8]&(1<<(last%8)) == 0 {
			last--
		}
		b[0x2038+last/8] &^= 1 << (last % 8)
		at := size + bits - 1
		b[0x2038+at/8] |= 1 << (at % 8)
		return put(b, 0x2030, 8, size+bits)
	}
}

// bitmapCorruptions are of a type 5 dump.
var bitmapCorruptions = []corruption{
	{"signature of a kernel dump", CheckMemflowBitmap, set(0x2000, 4, 0x504D4453)},
	{"signature of nothing", CheckBitmap, set(0x2000, 4, 0x45474150)},
	{"bitmap never finished", CheckBitmap, set(0x2004, 4, 0)},
	{"first page not aligned", CheckLeechCoreBitmap, func(t *testing.T, _ *lab, b []byte) []byte {
		first := binary.LittleEndian.Uint64(b[0x2020:])
		// The pages are one byte further, and so is the end of the dump.
		put(b, 0xFA0, 8, binary.LittleEndian.Uint64(b[0xFA0:])+1)
		return put(slices.Insert(b, int(first), 0), 0x2020, 8, first+1)
	}},
	{"first page in the bitmap", CheckBitmap, set(0x2020, 8, 0x2038)},
	{"first page beyond reason", CheckBitmap, set(0x2020, 8, 1<<62)},
	{"one page more than bits", CheckBitmap, add(0x2028)},
	{"one bit more than pages", CheckBitmap, func(_ *testing.T, _ *lab, b []byte) []byte { b[0x2038] ^= 1; return b }},
	{"one bit fewer than pages", CheckBitmap, func(_ *testing.T, _ *lab, b []byte) []byte { b[0x2038] ^= 2; return b }},
	{"no pages", CheckBitmap, set(0x2028, 8, 0)},
	{"a page in the last 8 bits of no 64", CheckLeechCoreBitmap, tail(8)},
	{"no bits", CheckBitmap, set(0x2030, 8, 0)},
	{"bits beyond reason", CheckBitmap, set(0x2030, 8, 1<<63)},
	{"cut in the bitmap", CheckBitmap, func(_ *testing.T, _ *lab, b []byte) []byte { return b[:0x2100] }},
}

// TestEachCorruptionIsSeenByOneCheck: one thing is broken at a time. A dump of type 5
// as snap writes it is none that radare2 takes.
func TestEachCorruptionIsSeenByOneCheck(t *testing.T) {
	for name, bitmap := range map[string]bool{"runs": false, "bitmap": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, ntlab.Config{})
			list, other := corruptions, CheckBitmap
			var always []string
			if bitmap {
				l.bitmap(t)
				list, other = slices.Concat(corruptions, bitmapCorruptions), CheckRuns
				always = []string{CheckRadare2Bitmap}
			}
			good := l.write(t, dump.Options{Compression: dump.CompressionNone})
			bad := make([]byte, len(good), len(good)+phys.PageSize)
			seen := map[string]bool{}
			for _, c := range list {
				if c.want == other {
					continue
				}
				copy(bad, good)
				findsOnly(t, c.name, c.want, verified(t, c.make(t, l, bad[:len(good)]), Options{SkipFrames: true}), always...)
				seen[c.want] = true
			}
			for _, c := range checks() {
				if !seen[c.name] && !notOf(bitmap, c.name) {
					t.Errorf("no corruption is seen by %q", c.name)
				}
			}
		})
	}
}

// notOf are the checks that dumps with or without a bitmap don't have, and those that
// have a test of their own.
func notOf(bitmap bool, name string) bool {
	switch name {
	case CheckFrames, // TestCorruptFrame
		CheckMemflowRuns, CheckLeechCoreFirst, // TestRemovedPages, TestFirstPageBeyondReaders
		CheckVolatilityBitmap, CheckKernelDumpTables, CheckBitmapBytes: // TestOtherWriters
		return true
	case CheckRuns:
		return bitmap
	case CheckBitmap, CheckMemflowBitmap, CheckLeechCoreBitmap:
		return !bitmap
	case CheckRadare2Bitmap:
		return true // always
	}
	return false
}

// findsOnly holds a report to one finding, of the level and for the readers that the
// check stands for, beside those that the dump has anyway.
func findsOnly(t *testing.T, what, want string, r *Report, always ...string) {
	t.Helper()
	found := slices.DeleteFunc(r.Findings(), func(c Check) bool { return c.Name != want && slices.Contains(always, c.Name) })
	level := levels[want]
	if r.OK != (level.level != LevelFail) || len(found) != 1 || found[0].Name != want || found[0].Detail == "" ||
		found[0].Level != level.level || level.readers != "" && fmt.Sprint(found[0].Readers) != level.readers {
		t.Errorf("%s: OK = %v, found %+v, skipped %q; want only %q, of %+v", what, r.OK, found, r.Skipped, want, level)
	}
}

func TestCorruptFrame(t *testing.T) {
	l := newLab(t, ntlab.Config{})
	b := l.write(t, dump.Options{})
	// The seek table's checksum of a frame that nothing in the guest is in.
	n := int(binary.LittleEndian.Uint32(b[len(b)-9:]))
	b[len(b)-9-12*n+12*(1+l.emptyFrame(t))+8] ^= 1
	r := verified(t, b, Options{})
	findsOnly(t, "a frame", CheckFrames, r)
	if r := verified(t, b, Options{SkipFrames: true}); !r.OK {
		t.Errorf("without looking at the frames failed %+v; want none", r.Failed())
	}
}

func TestSkippedChecksAreNamed(t *testing.T) {
	l := newLab(t, ntlab.Config{})
	b := l.write(t, dump.Options{Compression: dump.CompressionNone})
	put(b, l.at(t, l.Truth.KDBG+0x10), 4, 0)
	r := verified(t, b, Options{})
	want := []string{
		CheckListHeads, CheckKernel, CheckModules, CheckProcesses, CheckKernelRange, CheckBugCheckData, CheckMemoryBlock, CheckProcessors, CheckContexts,
		CheckVersion, CheckSystemTable, CheckHeaderContext,
	}
	if !slices.Equal(r.Skipped, want) {
		t.Errorf("skipped %q; want %q", r.Skipped, want)
	}
}

// TestSequentialGzipCannotBeVerified: gzip without random access is an error,
// not a verdict.
func TestSequentialGzipCannotBeVerified(t *testing.T) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(newLab(t, ntlab.Config{}).write(t, dump.Options{Compression: dump.CompressionNone})); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := dump.NewFile(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if r, err := Verify(context.Background(), f, Options{}); r != nil || !errors.Is(err, dump.ErrSequential) {
		t.Errorf("Verify = %v, %v; want ErrSequential", r, err)
	}
}

func TestCancelled(t *testing.T) {
	b := newLab(t, ntlab.Config{}).write(t, dump.Options{})
	f, err := dump.NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r, err := Verify(ctx, f, Options{}); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Verify = %v, %v; want context.Canceled", r, err)
	}
}
