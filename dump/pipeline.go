package dump

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"snap/phys"
)

// maxDeadFrames is how many frames in a row may fail to give a single page, for
// reasons other than not being memory, before the source counts as dead.
const maxDeadFrames = 64

// frame is a place in the pipeline, with the buffers that it needs. It is
// owned by one stage at a time.
type frame struct {
	index uint64
	in    []byte // the expanded bytes; when zero is set, only their length counts
	out   []byte // memory for the stored bytes
	zero  bool   // all of the frame is zeros

	readPages, zeroPages, unpopulatedPages uint64
	gaps                                   []Gap
	holes                                  [][]byte // parts of in that still hold an older frame's bytes
	lost, lostHard                         uint64   // unreadable pages, and those that are memory

	stored []byte
	err    error
	done   chan struct{} // capacity 1: the worker's promise to the collector

	// What phys.ReadPages calls, made once for all frames to come.
	read   func(phys.Run, []byte)
	unread func(phys.PFN, []byte, error) error
}

func newFrame(size int) *frame {
	f := &frame{in: make([]byte, size), done: make(chan struct{}, 1)}
	f.read, f.unread = f.readDone, f.unreadable
	return f
}

func (f *frame) reset() {
	f.zero, f.stored, f.err = false, nil, nil
	f.readPages, f.zeroPages, f.unpopulatedPages, f.lost, f.lostHard = 0, 0, 0, 0, 0
	f.gaps, f.holes = f.gaps[:0], f.holes[:0]
}

func (f *frame) readDone(r phys.Run, p []byte) {
	f.readPages += r.Pages
	f.zeroPages += countZero(p)
}

func (f *frame) unpopulated(p []byte) {
	f.unpopulatedPages += uint64(len(p)) / phys.PageSize
	f.holes = append(f.holes, p)
}

func (f *frame) unreadable(pfn phys.PFN, p []byte, err error) error {
	f.lost++
	if !errors.Is(err, phys.ErrNotRAM) {
		f.lostHard++
	}
	f.holes = append(f.holes, p)
	f.gaps = appendGap(f.gaps, Gap{phys.Run{Base: pfn, Pages: 1}, phys.GapReason(err).Error()})
	return nil
}

// clearHoles clears what was not read. It is put off because frames without any
// content, of which a sparse guest has very many, need no bytes at all.
func (f *frame) clearHoles() {
	for _, h := range f.holes {
		clear(h)
	}
}

// appendGap appends g, as part of the last gap where it continues that one.
func appendGap(gaps []Gap, g Gap) []Gap {
	if n := len(gaps); n > 0 && gaps[n-1].Run.End() == g.Run.Base && gaps[n-1].Reason == g.Reason {
		gaps[n-1].Run.Pages += g.Run.Pages
		return gaps
	}
	return append(gaps, g)
}

// pipeline is one Write. Frames go from free to the dispatcher, which numbers
// them, then to whichever worker is idle, while order keeps them in line for
// the collector, which waits for each one's promise and gives it back to free.
type pipeline struct {
	gatherer
	opts  Options
	cont  container
	zeros map[int][]byte // by length, the stored form of frames of zeros
	out   *sink

	free, work, order chan *frame

	stats Stats
	dead  phys.DeadStretch // of frames
}

// write is Write of a plan that was checked, with resolved options.
func write(ctx context.Context, w io.Writer, mem phys.Reader, l *layout, c container, o Options) (*Stats, error) {
	p := &pipeline{gatherer: gatherer{layout: l, mem: mem, frameSize: o.FrameSize}, opts: o, cont: c}
	p.dead.Limit = maxDeadFrames
	if err := p.prepare(w); err != nil {
		return nil, err
	}
	encoders := make([]encoder, p.opts.Workers)
	for i := range encoders {
		var err error
		if encoders[i], err = c.encoder(o); err != nil {
			return nil, err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.dispatch(ctx) })
	for _, enc := range encoders {
		g.Go(func() error { return p.worker(ctx, enc) })
	}
	g.Go(func() error { return p.collect(ctx) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return p.finish()
}

// prepare sizes the pipeline by the memory budget and allocates it.
func (p *pipeline) prepare(w io.Writer) error {
	perFrame := p.frameSize + storedBound(p.frameSize)
	n := min(int64(2*p.opts.Workers+2), p.opts.Memory/int64(perFrame))
	if n < 2 {
		return fmt.Errorf("memory limit of %d bytes: frames of %d bytes need at least %d", p.opts.Memory, p.frameSize, 2*perFrame)
	}
	p.opts.Workers = min(p.opts.Workers, int(n)-1)
	var err error
	if p.zeros, err = zeroForms(p.cont, p.opts, p.frameSize, p.lastPages()); err != nil {
		return err
	}
	p.out = newSink(w, p.cont)
	p.free, p.order = make(chan *frame, n), make(chan *frame, n)
	p.work = make(chan *frame)
	for range n {
		f := newFrame(p.frameSize)
		if !p.cont.plain {
			f.out = make([]byte, 0, storedBound(p.frameSize))
		}
		p.free <- f
	}
	p.stats.Pages, p.stats.DumpBytes = p.pages.Pages(), p.size()
	p.opts.Progress.Total.Store(p.size())
	return nil
}

func (p *pipeline) dispatch(ctx context.Context) error {
	defer close(p.work)
	defer close(p.order)
	for i := range p.frames() {
		select {
		case f := <-p.free:
			f.index = i
			p.order <- f // has room for every frame there is
			select {
			case p.work <- f:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (p *pipeline) worker(ctx context.Context, enc encoder) error {
	for f := range p.work {
		f.err = p.fill(ctx, f, f.index)
		if f.err == nil && !f.zero {
			f.stored, f.err = enc.encode(f.out, f.in)
		}
		f.done <- struct{}{}
	}
	return nil
}

// collect writes the frames in order. It alone touches p.stats and p.out.
func (p *pipeline) collect(ctx context.Context) error {
	for f := range p.order {
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if f.err != nil {
			return f.err
		}
		if err := p.account(f); err != nil {
			return err
		}
		if f.zero {
			f.stored = p.zeros[len(f.in)]
		}
		if err := p.out.frame(f); err != nil {
			return err
		}
		if p.opts.Frame != nil && !f.zero {
			p.opts.Frame(f.stored, f.readPages)
		}
		p.opts.Progress.Done.Add(uint64(len(f.in)))
		p.opts.Progress.Written.Store(p.out.n)
		p.free <- f
	}
	return nil
}

// account adds f to the statistics, and decides whether the source is dead.
func (p *pipeline) account(f *frame) error {
	s := &p.stats
	s.Read += f.readPages
	s.Zero += f.zeroPages
	s.Unpopulated += f.unpopulatedPages
	s.Unreadable += f.lost
	for _, g := range f.gaps {
		had := len(s.Gaps)
		if s.Gaps = appendGap(s.Gaps, g); len(s.Gaps) > MaxGaps {
			s.Gaps = s.Gaps[:had]
			s.GapsOmitted += g.Run.Pages
		}
	}
	if p.dead.Add(f.readPages, f.lostHard) {
		return fmt.Errorf("%w: no page of %d frames in a row, last at %v: %s",
			ErrSource, maxDeadFrames, f.gaps[len(f.gaps)-1].Run, f.gaps[len(f.gaps)-1].Reason)
	}
	return nil
}

// finish writes what follows the frames.
func (p *pipeline) finish() (*Stats, error) {
	s := &p.stats
	if s.Unreadable > 0 && s.Read == 0 {
		return nil, fmt.Errorf("%w: none of %d pages, the first at %v: %s", ErrSource, s.Unreadable, s.Gaps[0].Run, s.Gaps[0].Reason)
	}
	s.BytesRead = s.Read * phys.PageSize
	if p.out.tail != nil && p.opts.Metadata != nil {
		meta, err := p.opts.Metadata(s)
		if err != nil {
			return nil, fmt.Errorf("make metadata: %w", err)
		}
		if err := p.out.metadata(meta); err != nil {
			return nil, err
		}
	}
	if err := p.out.close(); err != nil {
		return nil, err
	}
	s.BytesWritten = p.out.n
	p.opts.Progress.Written.Store(p.out.n)
	stats := *s // without the pipeline and its buffers
	return &stats, nil
}

// zeroForms returns the stored forms of frames that hold only zeros, by length.
// There are at most two lengths of them, the full one and the last.
func zeroForms(c container, o Options, lengths ...int) (map[int][]byte, error) {
	enc, err := c.encoder(o)
	if err != nil {
		return nil, err
	}
	forms := map[int][]byte{}
	for _, n := range lengths {
		if c.zeros != nil {
			forms[n] = c.zeros(n)
		} else if forms[n], err = enc.encode(nil, make([]byte, n)); err != nil {
			return nil, err
		}
	}
	return forms, nil
}
