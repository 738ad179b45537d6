package dump

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
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

	stored  []byte
	hash    uint64 // of stored
	sum     uint32 // container.sum of in
	decoded bool   // stored was decoded, and was what is in in
	err     error
	done    chan struct{} // capacity 1: the worker's promise to the collector

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
	f.zero, f.stored, f.hash, f.sum, f.decoded, f.err = false, nil, 0, 0, false, nil
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
// the collector, which waits for each one's promise, gives what is stored to the
// writer and the frame back to free.
type pipeline struct {
	gatherer
	opts  Options
	cont  container
	zeros map[int]*frame // by length, frames of zeros
	out   *sink

	free, work, order chan *frame

	stats Stats
	proof *Proof
	plain *plainSum        // nil if nobody wants it
	dead  phys.DeadStretch // of frames
}

// write is Write of a plan that was checked, with resolved options.
func write(ctx context.Context, w io.Writer, mem phys.Reader, l *layout, c container, o Options) (*Stats, error) {
	p := &pipeline{gatherer: gatherer{layout: l, mem: mem, frameSize: o.FrameSize}, opts: o, cont: c}
	p.dead.Limit = maxDeadFrames
	if err := p.prepare(w); err != nil {
		return nil, err
	}
	workers := make([]worker, p.opts.Workers)
	for i := range workers {
		var err error
		if workers[i], err = newWorker(c, p.opts); err != nil {
			return nil, err
		}
	}
	if err := p.makeZeros(ctx, &workers[0]); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.dispatch(ctx) })
	for i := range workers {
		g.Go(func() error { return p.run(ctx, &workers[i]) })
	}
	g.Go(func() error { return p.collect(ctx) })
	g.Go(func() error { return p.out.run(ctx, &p.opts.Progress.Written) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	stats := p.stats // without the pipeline and its buffers
	return &stats, nil
}

// prepare sizes the pipeline by the memory budget and allocates it.
func (p *pipeline) prepare(w io.Writer) error {
	b, err := p.budget()
	if err != nil {
		return err
	}
	p.opts.Workers = b.workers
	p.proof = p.opts.Proof
	if p.proof == nil {
		p.proof = new(Proof)
	}
	p.proof.begin(b.proof)
	if p.opts.PlainSum {
		p.plain = newPlainSum()
	}
	p.free, p.order = make(chan *frame, b.frames), make(chan *frame, b.frames)
	p.work = make(chan *frame)
	var t tail
	if p.cont.tail != nil {
		t = p.cont.tail(p.opts, p.size(), uint64(len(p.header)))
	}
	p.out = newSink(w, p.cont, t, b, p.free)
	for range b.frames {
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

// makeZeros makes the frames that hold only zeros. There are at most two lengths of
// them, the full one and the last.
func (p *pipeline) makeZeros(ctx context.Context, w *worker) error {
	p.zeros = map[int]*frame{}
	for _, n := range []int{p.frameSize, p.lastPages()} {
		if n == 0 || p.zeros[n] != nil {
			continue
		}
		f := &frame{in: make([]byte, n), zero: true}
		if p.cont.zeros != nil {
			f.stored = p.cont.zeros(n)
		} else if f.stored, f.err = w.enc.encode(nil, f.in); f.err != nil {
			return f.err
		}
		w.addSum(f)
		if err := w.prove(ctx, f); err != nil {
			return err
		}
		if !p.cont.plain {
			f.in = nil // its length is its key
		}
		p.zeros[n] = f
	}
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

func (p *pipeline) run(ctx context.Context, w *worker) error {
	for f := range p.work {
		if f.err = p.fill(ctx, f, f.index); f.err == nil && !f.zero {
			f.err = w.encode(ctx, f)
		}
		f.done <- struct{}{}
	}
	return nil
}

// collect gives the frames to the writer in order, and what follows them. It alone
// touches p.stats, p.proof and p.plain.
func (p *pipeline) collect(ctx context.Context) error {
	if t := p.out.tail; t != nil {
		if err := p.put(ctx, t.begin()); err != nil {
			return err
		}
	}
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
			z := p.zeros[len(f.in)]
			f.stored, f.hash, f.sum = z.stored, z.hash, z.sum
		}
		p.proven(f)
		if p.opts.Frame != nil && !f.zero {
			p.opts.Frame(f.stored, f.readPages)
		}
		p.plain.frame(f)
		n := len(f.in)
		if err := p.out.frame(ctx, f); err != nil {
			return err
		}
		p.opts.Progress.Done.Add(uint64(n))
	}
	return p.finish(ctx)
}

// proven adds f to the proof.
func (p *pipeline) proven(f *frame) {
	if !p.cont.plain {
		p.proof.Frames++
	}
	switch {
	case f.zero && !p.cont.plain:
		p.proof.Zero++
	case f.decoded:
		p.proof.Decoded++
	}
	p.proof.add(f.hash, len(f.stored))
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
func (p *pipeline) finish(ctx context.Context) error {
	s := &p.stats
	if s.Unreadable > 0 && s.Read == 0 {
		return fmt.Errorf("%w: none of %d pages, the first at %v: %s", ErrSource, s.Unreadable, s.Gaps[0].Run, s.Gaps[0].Reason)
	}
	s.BytesRead = s.Read * phys.PageSize
	s.PlainSHA256 = p.plain.String()
	if t, ok := p.out.tail.(metadataTail); ok && p.opts.Metadata != nil {
		doc, err := p.metadata()
		if err != nil {
			return err
		}
		if err := p.put(ctx, t.metadata(doc)); err != nil {
			return err
		}
	}
	if t := p.out.tail; t != nil {
		if err := t.end(func(b []byte) error { return p.put(ctx, b) }); err != nil {
			return err
		}
	}
	s.BytesWritten = p.out.n
	return p.out.end(ctx)
}

// put puts out what is no frame.
func (p *pipeline) put(ctx context.Context, b []byte) error {
	p.proof.add(xxhash.Sum64(b), len(b))
	return p.out.add(ctx, b)
}

// metadata returns the document for the file.
func (p *pipeline) metadata() ([]byte, error) {
	doc, err := p.opts.Metadata(&p.stats)
	if err != nil {
		return nil, fmt.Errorf("make metadata: %w", err)
	}
	if len(doc) > MaxMetadata {
		return nil, fmt.Errorf("metadata of %d bytes: the most is %d", len(doc), MaxMetadata)
	}
	return doc, nil
}
