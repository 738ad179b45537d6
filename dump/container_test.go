package dump

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"snap/phys"
	"snap/store"
)

// sparsePlan is a small plan with zero frames in it, the last one too.
func sparsePlan(t testing.TB) (*Plan, *fakeMemory) {
	p, m := smallPlan(t)
	p.Overlays = p.Overlays[:1]
	p.Populated = phys.Runs{{Base: 0x80, Pages: 0x90}, {Base: 0x300, Pages: 0x10}}
	return p, m
}

// throughTool gives a file to a command and returns what it puts out.
func throughTool(t *testing.T, stored []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stored)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v failed: %v\n%s", name, args, err, stderr.Bytes())
	}
	return out
}

func someMetadata(*Stats) ([]byte, error) { return []byte(`{"snap":"test"}`), nil }

func TestOtherToolsExpand(t *testing.T) {
	tools := map[Compression][]string{
		CompressionZstd: {"zstd", "-d", "-c"},
		CompressionGzip: {"gunzip", "-c"},
	}
	for c, tool := range tools {
		for _, level := range []Level{LevelFastest, LevelDefault, LevelBetter, LevelBest} {
			for _, frame := range []int{phys.PageSize, 3 * phys.PageSize, 1 << 16, 1 << 20, 3 << 20} {
				p, m := sparsePlan(t)
				stored, _ := written(t, p, m, Options{Compression: c, Level: level, FrameSize: frame, Metadata: someMetadata})
				what := fmt.Sprintf("%v of %s, frames of %d", tool, level, frame)
				sameBytes(t, what, throughTool(t, stored, tool[0], tool[1:]...), expected(p, m))
			}
		}
	}
}

// TestToolsSeeCorruption: every frame has a checksum that zstd verifies, the
// frames that no compressor made too.
func TestToolsSeeCorruption(t *testing.T) {
	p, m := sparsePlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16})
	f := opened(t, stored)
	for i, ref := range framesOf(t, f) {
		bad := bytes.Clone(stored)
		bad[ref.at+int64(ref.stored)-1] ^= 1
		cmd := exec.Command("zstd", "-t")
		cmd.Stdin = bytes.NewReader(bad)
		if err := cmd.Run(); err == nil {
			t.Errorf("zstd -t accepts frame %d with a wrong checksum", i)
		}
	}
}

func TestOtherReaderOfTheFormat(t *testing.T) {
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	for _, meta := range []func(*Stats) ([]byte, error){nil, someMetadata} {
		p, m := sparsePlan(t)
		stored, s := written(t, p, m, Options{FrameSize: 1 << 16, Metadata: meta})
		r, err := seekable.NewReader(bytes.NewReader(stored), dec)
		if err != nil {
			t.Fatalf("the other reader refuses the file: %v", err)
		}
		table, err := r.SeekTable()
		if err != nil {
			t.Fatal(err)
		}
		if !table.HasChecksums() || table.Size() != s.DumpBytes {
			t.Errorf("table has checksums: %v, size %d; want true, %d", table.HasChecksums(), table.Size(), s.DumpBytes)
		}
		want := expected(p, m)
		all, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("the other reader fails: %v", err)
		}
		sameBytes(t, "read by the other reader", all, want)
		page := make([]byte, phys.PageSize)
		for off := 0; off < len(want); off += 13 * phys.PageSize {
			if _, err := r.ReadAt(page, int64(off)); err != nil || !bytes.Equal(page, want[off:off+len(page)]) {
				t.Errorf("the other reader at %#x is wrong: %v", off, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOtherWriterOfTheFormat: a dump that somebody else has put into the
// format, with frames of other sizes, is read too.
func TestOtherWriterOfTheFormat(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, m := smallPlan(t)
	want := expected(p, m)
	var stored bytes.Buffer
	w, err := seekable.NewWriter(&stored, enc)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 1+r.IntN(300<<10))
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f := opened(t, stored.Bytes())
	sameBytes(t, "expanded", expandedBytes(t, f), want)
	for range 200 {
		off := r.IntN(len(want))
		got := make([]byte, 1+r.IntN(min(len(want)-off, 100<<10)))
		if _, err := f.ReadAt(got, int64(off)); err != nil {
			t.Fatalf("ReadAt(%d bytes at %#x) failed: %v", len(got), off, err)
		}
		sameBytes(t, "ReadAt", got, want[off:off+len(got)])
	}
}

func TestContainerAndMetadata(t *testing.T) {
	p, m := smallPlan(t)
	doc := func(s *Stats) ([]byte, error) { return json.Marshal(map[string]uint64{"pages": s.Pages}) }
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16, Metadata: doc})
	f := opened(t, stored)
	want := Container{CompressionZstd, int64(len(stored)), true, 45, 1 << 16, true, false} // 8 KiB of header, 689 pages in 44 frames
	if f.Container() != want {
		t.Errorf("Container() = %+v; want %+v", f.Container(), want)
	}
	if got := string(f.Metadata()); got != `{"pages":689}` {
		t.Errorf("Metadata() = %s; want the number of pages", got)
	}
	stored, _ = written(t, p, m, Options{})
	if got := opened(t, stored).Metadata(); got != nil {
		t.Errorf("Metadata() without any = %q; want nil", got)
	}
	stored, _ = written(t, p, m, Options{Metadata: func(*Stats) ([]byte, error) { return nil, nil }})
	if got := opened(t, stored).Metadata(); len(got) != 0 {
		t.Errorf("Metadata() of an empty document = %q; want none", got)
	}
	tooMuch := Options{Metadata: func(*Stats) ([]byte, error) { return make([]byte, MaxMetadata+1), nil }}
	if _, err := Write(context.Background(), io.Discard, m, p, tooMuch); err == nil {
		t.Error("Write with too much metadata worked; want an error")
	}
}

func TestEmptySum(t *testing.T) {
	if got := uint32(xxhash.Sum64(nil)); got != emptySum {
		t.Errorf("checksum of nothing = %#x; want %#x", got, emptySum)
	}
}

// TestHeaderFrame: the header can be had without decoding any page.
func TestHeaderFrame(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{})
	n := len(stored) - 9 - 12*int(binary.LittleEndian.Uint32(stored[len(stored)-9:]))
	first := binary.LittleEndian.Uint32(stored[n:])
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	got, err := dec.DecodeAll(stored[:first], nil)
	if err != nil {
		t.Fatal(err)
	}
	sameBytes(t, "first frame", got, p.Header)
}

func TestConcurrentReads(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: phys.PageSize})
	want := expected(p, m)
	f := opened(t, stored)
	f.body.(*framedBody).cache.limit = 3
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			buf := make([]byte, 3*phys.PageSize)
			for range 300 {
				off := r.IntN(len(want) - len(buf))
				if _, err := f.ReadAt(buf, int64(off)); err != nil || !bytes.Equal(buf, want[off:off+len(buf)]) {
					t.Errorf("ReadAt(%#x) is wrong: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
	if c := f.body.(*framedBody).cache; c.order.Len() > 3 || len(c.byID) > 3 {
		t.Errorf("%d frames in the cache, %d in its index; want at most 3", c.order.Len(), len(c.byID))
	}
}

// tempFile is an empty file that goes away with the test.
func tempFile(t *testing.T, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// emptyPlan is 64 MiB of which only a page in the middle has anything in it.
func emptyPlan() (*Plan, *fakeMemory) {
	runs := []phys.Run{{Base: 0x100, Pages: 0x4000}}
	p := &Plan{Header: testHeader(runs), Runs: runs, Populated: phys.Runs{}}
	p.Overlays = []Overlay{{At: 0x1234567, Data: []byte("here"), What: "it"}}
	return p, &fakeMemory{ram: phys.Runs(runs)}
}

func TestHolesStayHoles(t *testing.T) {
	p, m := emptyPlan()
	want := expected(p, m)
	folder := t.TempDir()
	plain := storeFile(t, folder, store.Options{})
	if _, err := Write(context.Background(), plain, m, p, Options{Compression: CompressionNone}); err != nil {
		t.Fatalf("Write failed: %v", err)
	}
	if sum := sha256.Sum256(want); plain.Sum() != hex.EncodeToString(sum[:]) {
		t.Errorf("the hash of the file is %s; want %x, with its holes", plain.Sum(), sum)
	}
	stored, s := written(t, p, m, Options{})
	if s.BytesWritten > 16<<10 {
		t.Errorf("64 MiB of zeros take %d bytes", s.BytesWritten)
	}
	folderOfExpanded := t.TempDir()
	expanded := storeFile(t, folderOfExpanded, store.Options{})
	es, err := Expand(context.Background(), opened(t, stored), expanded, nil)
	if err != nil {
		t.Fatalf("Expand failed: %v", err)
	}
	// Only the header and the block with the overlay are written.
	if want := uint64(len(want)) - 0x2000 - holeSize; es.Holes != want {
		t.Errorf("Expand left %d bytes of holes; want %d", es.Holes, want)
	}
	for name, f := range map[string]store.File{folder: plain, folderOfExpanded: expanded} {
		if err := f.Commit(context.Background()); err != nil {
			t.Fatalf("Commit failed: %v", err)
		}
		path := filepath.Join(name, "f")
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		sameBytes(t, path, got, want)
		if n := allocated(t, path); n > 1<<20 {
			t.Errorf("%s takes %d bytes of the disk; want holes", path, n)
		}
	}
}

// TestHolesAreSafe: where the file has bytes already, or is appended to,
// zeros are written.
func TestHolesAreSafe(t *testing.T) {
	p, m := emptyPlan()
	want := expected(p, m)
	stored, _ := written(t, p, m, Options{})
	before := bytes.Repeat([]byte{0xff}, len(want)+100)

	for what, write := range map[string]func(w io.Writer) error{
		"Write": func(w io.Writer) error {
			_, err := Write(context.Background(), w, m, p, Options{Compression: CompressionNone})
			return err
		},
		"Expand": func(w io.Writer) error {
			_, err := Expand(context.Background(), opened(t, stored), w, nil)
			return err
		},
	} {
		over := tempFile(t, 0)
		if _, err := over.WriteAt(before, 0); err != nil {
			t.Fatal(err)
		}
		appended := tempFile(t, os.O_APPEND)
		if _, err := appended.Write(before[:100]); err != nil {
			t.Fatal(err)
		}
		behind := tempFile(t, 0)
		if _, err := behind.Write(before[:100]); err != nil {
			t.Fatal(err)
		}
		tests := []struct {
			name string
			f    *os.File
			want []byte
		}{
			{"over other bytes", over, append(bytes.Clone(want), before[len(want):]...)},
			{"appended", appended, append(bytes.Clone(before[:100]), want...)},
			{"behind other bytes", behind, append(bytes.Clone(before[:100]), want...)},
		}
		for _, tt := range tests {
			out := stdoutFile(t, tt.f)
			if err := write(out); err != nil {
				t.Fatalf("%s: %s failed: %v", tt.name, what, err)
			}
			if err := out.Commit(context.Background()); err != nil {
				t.Fatalf("%s: Commit failed: %v", tt.name, err)
			}
			got, err := os.ReadFile(tt.f.Name())
			if err != nil {
				t.Fatal(err)
			}
			sameBytes(t, what+" "+tt.name, got, tt.want)
		}
	}
}
