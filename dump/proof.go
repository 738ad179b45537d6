package dump

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/errgroup"
)

// Proof is what Write knows of the file that it made: how its frames were proven, and
// the hash of each span of it, made of a frame as soon as that was encoded, or decoded
// again. What is read back is held against it. The zero value proves nothing.
type Proof struct {
	// Frames holds header or pages; the plain container has none.
	Frames uint64
	// Zero are those of zeros alone. There are at most two kinds, each of which was
	// decoded once.
	Zero uint64
	// Decoded of the others were decoded as soon as they were encoded, and were what
	// was to be encoded, byte for byte.
	Decoded uint64

	spans []span // all of the file, in its order
	most  int    // spans that there is room for
	over  bool   // there were more, and none is kept
}

// span is a stretch of a file, or several of the same bytes in a row.
type span struct {
	hash  uint64 // XXH64
	size  uint32
	count uint32
}

// spanBytes is what a span takes in memory.
const spanBytes = 16

// begin forgets all, and makes room for so many bytes of spans: half of it for those
// that there are, and half to move them to when there are more.
func (p *Proof) begin(bytes int64) { *p = Proof{most: int(bytes / (2 * spanBytes))} }

// add appends a span of the file.
func (p *Proof) add(hash uint64, size int) {
	if size == 0 || p.over {
		return
	}
	if n := len(p.spans); n > 0 {
		last := &p.spans[n-1]
		if last.hash == hash && last.size == uint32(size) && last.count < 1<<31 {
			last.count++
			return
		}
	}
	if len(p.spans) >= p.most {
		p.spans, p.over = nil, true
		return
	}
	p.spans = append(p.spans, span{hash, uint32(size), 1})
}

// Whole reports whether there is a hash of every byte of the file. There is none where
// they don't fit the memory that they may take.
func (p *Proof) Whole() bool { return p != nil && len(p.spans) > 0 && !p.over }

// readBackSize is how much of a file is read back at a time.
const readBackSize = 4 << 20

// CheckStored reads the whole file and compares it with what Write put out: p must be
// Whole. Nothing is decoded. The error is a *FormatError if the file is another one.
// progress may be nil; it counts bytes of the file.
func (f *File) CheckStored(ctx context.Context, p *Proof, progress *Progress) error {
	if progress == nil {
		progress = new(Progress)
	}
	size := f.container.FileSize
	progress.Total.Store(uint64(size))
	back := &readBack{share: readBackSize, spans: p.spans}
	return back.all(ctx, f.stored, size, progress)
}

// readBack is one reading of a file, by several goroutines.
type readBack struct {
	share int // bytes that are read at a time, but for larger spans

	mu    sync.Mutex
	spans []span
	used  uint32 // of the first of spans
	off   int64  // in the file, of what is next
}

// share is what a goroutine reads at a time.
type share struct {
	off   int64
	size  int
	spans []span // as far as size goes
	used  uint32 // of the first of them, by the share before
}

// next returns the next share, of no bytes at the end.
func (b *readBack) next() share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := share{off: b.off, spans: b.spans, used: b.used}
	for len(b.spans) > 0 {
		p := b.spans[0]
		n := min(int(p.count-b.used), max(0, b.share-s.size)/int(p.size))
		if n == 0 && s.size > 0 {
			break
		}
		n = max(n, 1)
		s.size += n * int(p.size)
		if b.used += uint32(n); b.used == p.count {
			b.spans, b.used = b.spans[1:], 0
		}
	}
	b.off += int64(s.size)
	return s
}

// all reads a file of size bytes.
func (b *readBack) all(ctx context.Context, r io.ReaderAt, size int64, progress *Progress) error {
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), readMemory/readBackSize) {
		g.Go(func() error { return b.work(ctx, r, size, progress) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if b.off != size {
		return formatError(b.off, "file", "%d bytes; %d were written", size, b.off)
	}
	return nil
}

func (b *readBack) work(ctx context.Context, r io.ReaderAt, size int64, progress *Progress) error {
	buf := make([]byte, b.share)
	for {
		s := b.next()
		if s.size == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.off+int64(s.size) > size {
			return formatError(size, "file", "it ends here; more was written")
		}
		if len(buf) < s.size {
			buf = make([]byte, s.size)
		}
		if err := readFull(r, buf[:s.size], s.off); err != nil {
			return fmt.Errorf("read the file back at offset %#x: %w", s.off, err)
		}
		if err := s.compare(buf[:s.size]); err != nil {
			return err
		}
		progress.Done.Add(uint64(s.size))
	}
}

// compare holds what was read of s against its spans.
func (s *share) compare(b []byte) error {
	off := s.off
	for len(b) > 0 {
		p := s.spans[0]
		if sum := xxhash.Sum64(b[:p.size]); sum != p.hash {
			return formatError(off, "file", "the %d bytes from there are not those that were written: their XXH64 is %#016x, not %#016x", p.size, sum, p.hash)
		}
		b, off = b[p.size:], off+int64(p.size)
		if s.used++; s.used == p.count {
			s.spans, s.used = s.spans[1:], 0
		}
	}
	return nil
}
