package phys

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Reader reads guest-physical memory.
type Reader interface {
	// ReadPhys fills all of p with the guest's memory from at on, or fails: a
	// short read is never a success. After an error the contents of p are
	// undefined. It is safe for concurrent use. A range that is not wholly
	// memory fails with an error for which errors.Is(err, ErrNotRAM) holds.
	ReadPhys(ctx context.Context, p []byte, at Addr) error
}

// Sparse is a Reader that may know of pages that they are zero.
type Sparse interface {
	Reader

	// Populated returns the pages of memory that can hold anything but zeros at
	// this moment; all others read as zero and need not be read. known is
	// false where it can't be told, and then the set is all memory.
	Populated(ctx context.Context) (set Runs, known bool, err error)
}

// Caching is a Reader that answers from what it read before where it can, and reads
// beside what is asked for: a look at memory that is dear to read. What it gives may
// have been so a while ago.
type Caching interface {
	Reader

	// ReadAnew is ReadPhys of memory as it is now, whatever was read before. Nothing
	// of it is kept.
	ReadAnew(ctx context.Context, p []byte, at Addr) error

	// Prefetch reads pages that ReadPhys is about to be asked for, in any order, with
	// few calls. Of very many it may take the first. A page that can't be read is no
	// error: it is ReadPhys' to meet.
	Prefetch(ctx context.Context, pages iter.Seq[Run])
}

// Anew returns a reader of mem as it is now: mem itself, unless that is Caching.
func Anew(mem Reader) Reader {
	if c, ok := mem.(Caching); ok {
		return anew{c}
	}
	return mem
}

// anew is the other side of a Caching.
type anew struct{ of Caching }

func (r anew) ReadPhys(ctx context.Context, p []byte, at Addr) error {
	return r.of.ReadAnew(ctx, p, at)
}

// Prefetch has mem read pages that are about to be asked for, if it is Caching. Else
// nobody asks which they are.
func Prefetch(ctx context.Context, mem Reader, pages iter.Seq[Run]) {
	if c, ok := mem.(Caching); ok {
		c.Prefetch(ctx, pages)
	}
}

// ErrNotRAM says that an address is outside the guest's memory.
var ErrNotRAM = errors.New("not guest memory")

// AccessError is a read of guest-physical memory that failed.
type AccessError struct {
	At  Addr
	Len int
	Err error
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("read %d bytes at guest-physical %#x: %v", e.Len, uint64(e.At), e.Err)
}

// Unwrap returns the cause.
func (e *AccessError) Unwrap() error { return e.Err }
