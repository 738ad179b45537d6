package phys

import (
	"context"
	"errors"
	"sync/atomic"
)

// ReadPages fills b with the pages of r from mem. Where that fails because of
// the pages rather than the source (see IsGap), it reads them in halves, down to
// single pages. read is called with each part of b that was filled, and lost
// with each page that could not be read, its part of b (whose contents are then
// undefined) and the error; both are called in ascending order. An error that
// lost returns ends the reading and is returned, as is one of mem that is no
// gap. When ctx has ended the error is its cause. b has the size of r.
func ReadPages(ctx context.Context, mem Reader, r Run, b []byte, read func(Run, []byte), lost func(PFN, []byte, error) error) error {
	err := mem.ReadPhys(ctx, b, r.Base.Addr())
	switch {
	case err == nil:
		read(r, b)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !IsGap(err):
		return err
	case r.Pages == 1:
		return lost(r.Base, b, err)
	}
	half := r.Pages / 2
	if err := ReadPages(ctx, mem, Run{Base: r.Base, Pages: half}, b[:half*PageSize], read, lost); err != nil {
		return err
	}
	return ReadPages(ctx, mem, Run{Base: r.Base + PFN(half), Pages: r.Pages - half}, b[half*PageSize:], read, lost)
}

// IsGap reports whether err, of a Reader, is about the memory that was to be
// read rather than about the source: an *AccessError, or of class ErrNotRAM.
func IsGap(err error) bool {
	_, ok := errors.AsType[*AccessError](err)
	return ok || errors.Is(err, ErrNotRAM)
}

// GapReason returns why memory could not be read, without its address, so that
// neighbours that failed alike have errors of the same text.
func GapReason(err error) error {
	if e, ok := errors.AsType[*AccessError](err); ok && e.Err != nil {
		return e.Err
	}
	return err
}

// DeadStretch counts pieces of memory in a row of which no page could be read,
// so that a source which is gone isn't asked for every single page that it had.
// It is safe for concurrent use; pieces then count in the order of the calls.
type DeadStretch struct {
	// Limit is how many pieces in a row make the source count as dead.
	Limit int64

	n atomic.Int64
}

// Add takes one piece into account, of which so many pages were read and so
// many lost for a reason that speaks against the source. It returns true when
// the source counts as dead. A piece that is neither changes nothing.
func (d *DeadStretch) Add(read, lost uint64) (dead bool) {
	switch {
	case read > 0:
		d.n.Store(0)
	case lost > 0:
		return d.n.Add(1) >= d.Limit
	}
	return false
}
