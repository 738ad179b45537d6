package phys

import (
	"context"
	"errors"
	"fmt"
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
