package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"

	"snap/phys"
)

// flippedContainer is a toy: each frame is stored with all bits flipped, behind
// its length, and metadata follows in a frame of no length. It is all that a new
// container needs.
func flippedContainer() container {
	return container{
		name:    "flipped",
		doc:     "every bit the other way round",
		suffix:  ".flip",
		encoder: func(Options) (encoder, error) { return flipper{}, nil },
		decoder: func(Options) (decoder, error) { return flipper{}, nil },
		tail:    func(Options, uint64, uint64) tail { return flippedTail{} },
		sniff:   func(head []byte) bool { return string(head[4:8]) == "FLIP" },
		open:    openFlipped,
	}
}

type flipper struct{}

func (flipper) encode(dst, src []byte) ([]byte, error) {
	dst = binary.LittleEndian.AppendUint32(dst[:0], uint32(len(src)))
	dst = append(dst, "FLIP"...)
	for _, c := range src {
		dst = append(dst, ^c)
	}
	return dst, nil
}

func (f flipper) expand(dst, src []byte, _ frameRef) ([]byte, error) { return f.decode(dst, src, 0) }

func (flipper) decode(dst, src []byte, _ int) ([]byte, error) {
	dst = dst[:0]
	for _, c := range src[8:] {
		dst = append(dst, ^c)
	}
	return dst, nil
}

type flippedTail struct{}

func (flippedTail) begin() []byte { return nil }

func (flippedTail) frame([]byte, int, uint32) {}

func (flippedTail) metadata(doc []byte) []byte { return append(make([]byte, 8), doc...) }

func (flippedTail) end(func([]byte) error) error { return nil }

func openFlipped(r io.ReaderAt, size int64) (*contents, error) {
	behind := size // the last frame
	walk := func(from place, use func(at place, f frameRef) (bool, error)) error {
		for at := from.at; at < size; {
			var head [8]byte
			if err := readFull(r, head[:], at); err != nil {
				return err
			}
			n := binary.LittleEndian.Uint32(head[:])
			if n == 0 {
				behind = at
				break
			}
			if n > math.MaxInt32 {
				return formatError(at, "frame", "%d bytes", n)
			}
			if more, err := use(place{at: at}, frameRef{at: at, entry: entry{stored: n + 8, expanded: n}}); err != nil || !more {
				return err
			}
			at += int64(n) + 8
		}
		return nil
	}
	t, err := newFrameTable(size, walk)
	if err != nil {
		return nil, err
	}
	metadata := make([]byte, max(0, size-behind-8))
	if err := readFull(r, metadata, behind+8); len(metadata) > 0 && err != nil {
		return nil, err
	}
	return &contents{
		Container: Container{RandomAccess: true, Frames: t.count, FrameSize: t.largest},
		body:      newFramedBody(r, t, flipper{}),
		metadata:  metadata,
	}, nil
}

// TestAddContainer: a new container is one more value in the list. A dump in it is
// written, read, checked and expanded.
func TestAddContainer(t *testing.T) {
	all := append(containers(), flippedContainer())
	p, m := sparsePlan(t)
	want := expected(p, m)
	for _, frame := range []int{phys.PageSize, 1 << 16, 1 << 20} {
		var out bytes.Buffer
		o := Options{Compression: "flipped", FrameSize: frame, Metadata: someMetadata}
		if _, err := writeIn(context.Background(), &out, m, p, o, all); err != nil {
			t.Fatalf("Write failed: %v", err)
		}
		f, err := newFile(bytes.NewReader(out.Bytes()), int64(out.Len()), all)
		if err != nil {
			t.Fatalf("NewFile failed: %v", err)
		}
		defer f.Close()
		if c := f.Container(); c.Compression != "flipped" || c.FileSize != int64(out.Len()) || !c.RandomAccess || c.FrameSize != frame {
			t.Errorf("Container() = %+v; want one of flipped with frames of %d", c, frame)
		}
		if doc := f.Metadata(); !json.Valid(doc) {
			t.Errorf("Metadata() = %q; want what was stored", doc)
		}
		sameBytes(t, fmt.Sprintf("expanded, frames of %d", frame), expandedBytes(t, f), want)
		page := make([]byte, phys.PageSize)
		if _, err := f.ReadAt(page, 0x2000); err != nil || !bytes.Equal(page, want[0x2000:0x3000]) {
			t.Errorf("ReadAt is wrong: %v", err)
		}
		if err := f.CheckFrames(context.Background(), nil); err != nil {
			t.Errorf("CheckFrames failed: %v", err)
		}
	}
	// Who doesn't have it in the list says what there is.
	if _, err := Write(context.Background(), io.Discard, m, p, Options{Compression: "flipped"}); err == nil ||
		err.Error() != `compression "flipped": want zstd, gzip, zip or none` {
		t.Errorf("Write without it in the list = %v; want the names of the others", err)
	}
}

// TestLists: what there is to choose from, and that each is described.
func TestLists(t *testing.T) {
	if got, want := Compressions(), []Compression{CompressionZstd, CompressionGzip, CompressionZip, CompressionNone}; !slices.Equal(got, want) {
		t.Errorf("Compressions() = %q; want %q", got, want)
	}
	if got, want := Levels(), []Level{LevelFastest, LevelTurbo, LevelDefault, LevelBetter, LevelBest}; !slices.Equal(got, want) {
		t.Errorf("Levels() = %q; want %q", got, want)
	}
	docs := map[string]bool{}
	for _, c := range Compressions() {
		docs[c.Doc()] = true
	}
	for _, l := range Levels() {
		docs[l.Doc()] = true
	}
	if docs[""] || len(docs) != len(Compressions())+len(Levels()) {
		t.Errorf("descriptions are %v; want one of its own for each", docs)
	}
	for c, want := range map[Compression]string{"": ".zst", CompressionZstd: ".zst", CompressionGzip: ".gz", CompressionZip: ".zip", CompressionNone: ""} {
		if got := c.Suffix(); got != want {
			t.Errorf("Suffix() of %q = %q; want %q", c, got, want)
		}
	}
}

// TestRecognise: a dump is known by its first bytes in every container.
func TestRecognise(t *testing.T) {
	p, m := smallPlan(t)
	for _, c := range Compressions() {
		stored, _ := written(t, p, m, Options{Compression: c})
		if got, ok := Recognise(stored[:16]); got != c || !ok {
			t.Errorf("Recognise of a dump in %s = %q, %v", c, got, ok)
		}
	}
	for _, head := range []string{"", "PAGE", "\x7fELF\x02\x01\x01\x00", "KDUMP   ", "Hello, world"} {
		if c, ok := Recognise([]byte(head)); ok {
			t.Errorf("Recognise(%q) = %q; want none", head, c)
		}
	}
}
