package dump

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"snap/phys"
)

// TestPreviewIsWhatIsWritten reads dumps that aren't written, of any plan: whole, in
// parts, by pages and by frames, they are what Write writes.
func TestPreviewIsWhatIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m := drawPlan(t)
		if ok, _ := readable(p, m); !ok {
			t.Skip("no page can be read")
		}
		want := expected(p, m)
		f, err := Preview(t.Context(), m, p)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a preview of %d bytes, %v; want those %d that are written", len(got), err, len(want))
		}
		off := rapid.IntRange(0, len(want)-1).Draw(t, "offset")
		part := make([]byte, rapid.IntRange(1, min(len(want)-off, 100_000)).Draw(t, "length"))
		if n, err := f.ReadAt(part, int64(off)); n != len(part) || err != nil || !bytes.Equal(part, want[off:off+n]) {
			t.Fatalf("%d of %d bytes at %#x, %v; want those that are written", n, len(part), off, err)
		}
		if n, err := f.ReadAt(make([]byte, 2), int64(len(want))-1); n != 1 || !errors.Is(err, io.EOF) {
			t.Fatalf("across the end: %d bytes, %v; want 1 and io.EOF", n, err)
		}
		var progress Progress
		if err := f.CheckFrames(t.Context(), &progress); err != nil || progress.Done.Load() != uint64(len(want)) {
			t.Fatalf("CheckFrames = %v after %d of %d bytes", err, progress.Done.Load(), len(want))
		}
	})
}

// TestPreviewReadsWhatIsAskedFor: of a large dump only those pages are read that lie
// beside what is wanted.
func TestPreviewReadsWhatIsAskedFor(t *testing.T) {
	p, m := smallPlan(t)
	f, err := Preview(t.Context(), m, p)
	if err != nil {
		t.Fatal(err)
	}
	var read uint64
	m.reads = func(r phys.Run) { read += r.Pages }
	page := make([]byte, phys.PageSize)
	at := p.Runs[len(p.Runs)-1].Base
	if err := f.ReadPhys(t.Context(), page, at.Addr()); err != nil || !bytes.Equal(page, fakePage(at)) {
		t.Fatalf("a page is another one, %v", err)
	}
	if read == 0 || read > previewFrame/phys.PageSize {
		t.Errorf("%d pages were read for one", read)
	}
}
