package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"snap/input"
	"snap/phys"
)

// exercise reads everything that a file offers and returns the first error.
func exercise(b []byte) error {
	f, err := NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Header(); err != nil {
		return err
	}
	if err := f.Complete(); err != nil {
		return err
	}
	return f.CheckFrames(context.Background(), nil)
}

// TestEveryCorruptByteIsSeen flips bits all over a dump: whatever is hit, the
// file is refused as damaged or gives the same bytes.
func TestEveryCorruptByteIsSeen(t *testing.T) {
	p, m := smallPlan(t)
	p.Runs = []phys.Run{{Base: 1, Pages: 20}}
	p.Header = testHeader(p.Runs)
	p.Overlays = nil
	for _, c := range []Compression{CompressionZstd, CompressionGzip, CompressionZip} {
		stored, _ := written(t, p, m, Options{Compression: c, FrameSize: 4 * phys.PageSize, Metadata: someMetadata})
		step := max(1, len(stored)/600)
		for i := 0; i < len(stored); i++ {
			if i > 64 && i < len(stored)-200 && i%step != 0 {
				continue
			}
			bad := bytes.Clone(stored)
			bad[i] ^= 1 << (i % 8)
			err := exercise(bad)
			if err == nil {
				f := opened(t, bad)
				sameBytes(t, string(c), expandedBytes(t, f), expected(p, m))
				continue
			}
			if !errors.Is(err, ErrFormat) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s with byte %#x flipped = %v; want ErrFormat", c, i, err)
			}
		}
	}
}

func TestTruncatedFiles(t *testing.T) {
	p, m := smallPlan(t)
	for _, c := range Compressions() {
		stored, _ := written(t, p, m, Options{Compression: c, FrameSize: 1 << 16})
		for _, n := range []int{0, 1, 7, 8, 100, 0x1000, 0x1fff, 0x2000, 0x2001, len(stored) / 2, len(stored) - 10, len(stored) - 9, len(stored) - 8, len(stored) - 1} {
			if err := exercise(stored[:n]); !errors.Is(err, ErrFormat) {
				t.Errorf("%s cut to %d of %d bytes = %v; want ErrFormat", c, n, len(stored), err)
			}
		}
		if err := exercise(stored); err != nil {
			t.Errorf("%s, whole: %v", c, err)
		}
	}
}

// resealed gives a file another seek table.
func resealed(stored []byte, change func(entries []entry) []entry) []byte {
	le := binary.LittleEndian
	n := int(le.Uint32(stored[len(stored)-9:]))
	start := len(stored) - 9 - 12*n
	entries := make([]entry, n)
	for i := range entries {
		b := stored[start+12*i:]
		entries[i] = entry{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
	}
	return append(bytes.Clone(stored[:start-8]), encodeSeekTable(change(entries))...)
}

func TestHostileSeekTables(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16, Metadata: someMetadata})
	if err := exercise(resealed(stored, func(e []entry) []entry { return e })); err != nil {
		t.Fatalf("the same table again: %v", err)
	}
	tests := map[string]func(e []entry) []entry{
		"no frames":                 func(e []entry) []entry { return nil },
		"one frame too few":         func(e []entry) []entry { return e[:len(e)-1] },
		"one frame too many":        func(e []entry) []entry { return append(e, e[3]) },
		"a frame of no stored size": func(e []entry) []entry { return append(e[:2], append([]entry{{0, 5, 0}}, e[2:]...)...) },
		"only skippable frames": func(e []entry) []entry {
			for i := range e {
				e[i].expanded = 0
			}
			return e
		},
		"expanded size too small":       func(e []entry) []entry { e[3].expanded--; return e },
		"expanded size too large":       func(e []entry) []entry { e[3].expanded++; return e },
		"expanded size of 4 GiB":        func(e []entry) []entry { e[3].expanded = ^uint32(0); return e },
		"stored beyond any compression": func(e []entry) []entry { e[0].expanded = 1; return e },
		"sizes swapped":                 func(e []entry) []entry { e[1], e[2] = e[2], e[1]; return e },
		"wrong checksum":                func(e []entry) []entry { e[7].sum++; return e },
		"stored size beyond the file":   func(e []entry) []entry { e[len(e)-2].stored = 1 << 31; return e },
		"metadata frame too long":       func(e []entry) []entry { e[len(e)-2].stored -= 4; e[len(e)-1].stored += 4; return e },
	}
	for name, change := range tests {
		if err := exercise(resealed(stored, change)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v; want ErrFormat", name, err)
		}
	}
}

// TestTableIsRefusedBeforeUse: what a table claims beyond reason is refused when
// the file is opened, so that nothing is allocated for it.
func TestTableIsRefusedBeforeUse(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16})
	tests := map[string][]byte{
		"frame of 4 GiB":              resealed(stored, func(e []entry) []entry { e[3].expanded = ^uint32(0); return e }),
		"frame stored in too much":    resealed(stored, func(e []entry) []entry { e[3].expanded = 1; e[3].stored += e[4].stored; return append(e[:4], e[5:]...) }),
		"frame that takes no bytes":   resealed(stored, func(e []entry) []entry { return append(e, entry{0, 100, 0}) }),
		"reserved bits":               bytes.Clone(stored),
		"more frames than file":       bytes.Clone(stored),
		"length of the table's frame": bytes.Clone(stored),
	}
	tests["reserved bits"][len(stored)-5] |= 1 << 4
	tests["more frames than file"][len(stored)-6] = 0xff
	tests["length of the table's frame"][len(stored)-9-12*int(binary.LittleEndian.Uint32(stored[len(stored)-9:]))-4]++
	for name, b := range tests {
		if f, err := NewFile(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: NewFile = %v, %v; want ErrFormat", name, f, err)
		}
	}
}

// TestHostileFrame: a frame that expands to far more than the table says must
// not be expanded.
func TestHostileFrame(t *testing.T) {
	bomb := zstdZeros(64 << 20)
	head := testHeader([]phys.Run{{Base: 1, Pages: 1}})
	enc, err := newZstdEncoder(Options{FrameSize: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	first, err := enc.encode(nil, head)
	if err != nil {
		t.Fatal(err)
	}
	b := append(bytes.Clone(first), bomb...)
	b = append(b, encodeSeekTable([]entry{
		{uint32(len(first)), 0x2000, zstdChecksum(first)},
		{uint32(len(bomb)), 0x1000, 0},
	})...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = exercise(b)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrFormat) {
		t.Errorf("a frame of 64 MiB in the place of 4 KiB = %v; want ErrFormat", err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
		t.Errorf("refusing it took %d bytes of memory", n)
	}
}

func TestNotDumps(t *testing.T) {
	empty := zstdZeros(100)
	tests := map[string][]byte{
		"ELF":                     append([]byte("\x7fELF"), make([]byte, 0x3000)...),
		"zeros":                   make([]byte, 0x3000),
		"PAGE but not DUMP":       append([]byte("PAGEPAGE"), make([]byte, 0x3000)...),
		"zstd of something else":  append(bytes.Clone(empty), encodeSeekTable([]entry{{uint32(len(empty)), 100, zstdChecksum(empty)}})...),
		"zstd without seek table": empty,
		"gzip of nothing":         {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"gzip magic only":         append([]byte{0x1f, 0x8b}, make([]byte, 100)...),
	}
	for name, b := range tests {
		if f, err := NewFile(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: NewFile = %v, %v; want ErrFormat", name, f, err)
		}
	}
}

// TestBadHeaderIsNotAnOpenError: one can look into a dump whose header no
// reader would take, but not read pages by it.
func TestBadHeaderIsNotAnOpenError(t *testing.T) {
	p, m := smallPlan(t)
	b := expected(p, m)
	b[0x90]++ // NumberOfPages
	f := opened(t, b)
	if h, err := f.Header(); h != nil || !errors.Is(err, ErrFormat) {
		t.Errorf("Header() = %v, %v; want ErrFormat", h, err)
	}
	sameBytes(t, "RawHeader", f.RawHeader(), b[:0x2000])
	if err := f.ReadPhys(context.Background(), make([]byte, 8), 0x1000); !errors.Is(err, ErrFormat) {
		t.Errorf("ReadPhys = %v; want ErrFormat", err)
	}
	if len(f.RAM()) != 0 {
		t.Errorf("RAM() = %v; want none", f.RAM())
	}
}

func TestReadPhysOutside(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{})
	f := opened(t, stored)
	for _, at := range []phys.Addr{0, 0xff8, 0x9f000, 0x9eff8 + 0x10, 0x413000, phys.MaxAddr - 8, ^phys.Addr(0) - 3} {
		err := f.ReadPhys(context.Background(), make([]byte, 0x20), at)
		_, typed := errors.AsType[*phys.AccessError](err)
		if !typed || !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("ReadPhys at %#x = %v; want ErrNotRAM", uint64(at), err)
		}
	}
	cut := opened(t, expected(p, m)[:0x2000+0x100*phys.PageSize])
	err := cut.ReadPhys(context.Background(), make([]byte, 8), 0x412000)
	if _, typed := errors.AsType[*phys.AccessError](err); !typed || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ReadPhys past the end of a truncated dump = %v; want an AccessError of ErrUnexpectedEOF", err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{})
	path := filepath.Join(dir, "a.dmp.zst")
	if err := os.WriteFile(path, stored, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	if err := f.CheckFrames(context.Background(), nil); err != nil {
		t.Errorf("CheckFrames failed: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close failed: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of no file = %v; want ErrNotExist", err)
	}
	core := filepath.Join(dir, "core")
	if err := os.WriteFile(core, []byte("MDMP\x93\xa7 and more of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "a folder", core: "a minidump of a program"} {
		_, err := Open(path)
		if r, ok := errors.AsType[*input.Refusal](err); !ok || r.What != want {
			t.Errorf("Open of %s = %v; want a refusal", want, err)
		}
	}
}
