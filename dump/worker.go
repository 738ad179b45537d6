package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/trace"

	"github.com/cespare/xxhash/v2"
)

// worker encodes frames and proves what came of them, one at a time.
type worker struct {
	enc     encoder
	dec     decoder // nil where frames are stored as they are
	scratch []byte  // what is decoded
	every   uint64  // one frame in so many is decoded
	hash    bool    // somebody wants to read the file back
	sum     func([]byte) uint32
}

func newWorker(c container, o Options) (worker, error) {
	w := worker{every: 1, hash: o.Proof != nil, sum: c.sum}
	if o.Verification == VerifyStored {
		w.every = DecodedShare
	}
	var err error
	if w.enc, err = c.encoder(o); err != nil || c.decoder == nil {
		return w, err
	}
	w.scratch = make([]byte, 0, o.FrameSize+decodeSlack)
	w.dec, err = c.decoder(o)
	return w, err
}

// encode sets what of f is stored.
func (w *worker) encode(ctx context.Context, f *frame) (err error) {
	r := trace.StartRegion(ctx, "compress")
	f.stored, err = w.enc.encode(f.out, f.in)
	r.End()
	if err != nil {
		return err
	}
	if n := len(f.stored); n < leastStored || n > storedBound(len(f.in)) {
		return fmt.Errorf("%w: frame %d, %d bytes of %d", ErrEncoding, f.index, n, len(f.in))
	}
	w.addSum(f)
	return w.prove(ctx, f)
}

// addSum sets the checksum of f that its container's tail is told.
func (w *worker) addSum(f *frame) {
	if w.sum != nil {
		f.sum = w.sum(f.in)
	}
}

// leastStored is fewer bytes than any container makes of a frame, its checksum included.
const leastStored = 8

// prove decodes what of f is stored, if it is f's turn, and compares that with what was
// encoded. Before that it takes the hash: so no byte can change between the two unseen.
func (w *worker) prove(ctx context.Context, f *frame) error {
	if w.hash {
		r := trace.StartRegion(ctx, "hash")
		f.hash = xxhash.Sum64(f.stored)
		r.End()
	}
	if w.dec == nil || f.index%w.every != 0 {
		return nil
	}
	defer trace.StartRegion(ctx, "verify").End()
	got, err := w.dec.decode(w.scratch, f.stored, len(f.in))
	if err == nil && !bytes.Equal(got, f.in) {
		err = errors.New("they expand to other bytes")
	}
	if err != nil {
		return fmt.Errorf("%w: frame %d, %d bytes of %d: %w", ErrEncoding, f.index, len(f.stored), len(f.in), err)
	}
	f.decoded = true
	return nil
}
