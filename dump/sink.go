package dump

import (
	"context"
	"fmt"
	"io"
	"runtime/trace"
	"sync/atomic"
)

// sink puts the stored frames out in order. Who fills it is one goroutine, and who
// writes another (run): the first waits for the second only when all blocks are full.
type sink struct {
	n    uint64 // bytes that were given to it
	tail tail   // nil if nothing stands around the frames

	block []byte      // being filled; nil where frames are written as they are
	empty chan []byte // blocks
	full  chan chunkOut
	free  chan *frame // where frames go

	out outlet
}

// chunkOut is what is written at a time.
type chunkOut struct {
	b []byte
	f *frame // whose memory it is; nil for a block
}

// newSink returns a sink to w, which gives frames back to free. t may be nil.
func newSink(w io.Writer, c container, t tail, b budget, free chan *frame) *sink {
	s := &sink{tail: t, out: newOutlet(w, c.plain), free: free, full: make(chan chunkOut, max(b.blocks, b.frames))}
	if b.blocks > 0 {
		s.empty = make(chan []byte, b.blocks)
		for range b.blocks - 1 {
			s.empty <- make([]byte, 0, b.block)
		}
		s.block = make([]byte, 0, b.block)
	}
	return s
}

// frame puts out f, which is given back when nobody needs it any more.
func (s *sink) frame(ctx context.Context, f *frame) error {
	if s.block == nil {
		s.n += uint64(len(f.stored))
		s.full <- chunkOut{f.stored, f} // has room for every frame there is
		return nil
	}
	if s.tail != nil {
		s.tail.frame(f.stored, len(f.in), f.sum)
	}
	err := s.add(ctx, f.stored)
	s.free <- f
	return err
}

// add puts out p, which is the caller's again when it returns.
func (s *sink) add(ctx context.Context, p []byte) error {
	s.n += uint64(len(p))
	for len(p) > 0 {
		n := copy(s.block[len(s.block):cap(s.block)], p)
		s.block, p = s.block[:len(s.block)+n], p[n:]
		if len(s.block) < cap(s.block) {
			break
		}
		s.full <- chunkOut{b: s.block} // has room for every block there is
		select {
		case s.block = <-s.empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// end puts out what is left. Nothing is added after it.
func (s *sink) end(context.Context) error {
	if len(s.block) > 0 {
		s.full <- chunkOut{b: s.block}
	}
	close(s.full)
	return nil
}

// run writes what the sink was given until its end, and counts that in written.
func (s *sink) run(ctx context.Context, written *atomic.Uint64) error {
	var off uint64
	for {
		var c chunkOut
		var ok bool
		select {
		case c, ok = <-s.full:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !ok {
			break
		}
		r := trace.StartRegion(ctx, "write")
		_, err := s.out.Write(c.b)
		r.End()
		if err != nil {
			return fmt.Errorf("write dump at offset %#x: %w", off, err)
		}
		off += uint64(len(c.b))
		written.Store(off)
		if c.f != nil {
			s.free <- c.f
		} else {
			s.empty <- c.b[:0]
		}
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write dump at offset %#x: %w", off, err)
	}
	return nil
}
