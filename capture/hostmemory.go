package capture

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"snap/phys"
)

// hostMemory is memory of the host outside of Go's heap, page-aligned.
type hostMemory []byte

// newHostMemory reserves size bytes, a multiple of phys.PageSize. The host's memory
// is only used by what is touched. What a guest has in its memory belongs in no
// core dump and on no swap disk: the first always holds, the second as far as
// the limit on locked memory allows.
func newHostMemory(size uint64) (hostMemory, error) {
	if size == 0 {
		return nil, nil
	}
	if size > 1<<62 {
		return nil, fmt.Errorf("reserve %d bytes for the spool: %w", size, unix.ENOMEM)
	}
	b, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes for the spool: %w", size, err)
	}
	r := hostMemory(b)
	if err := unix.Madvise(r, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("keep the spool out of core dumps: %w", err), r.free())
	}
	// Where the host has huge pages, it takes a quarter of the time of the processor to
	// get them, and next to none to free them (BenchmarkHostMemory). To copy into them
	// takes as long as ever.
	_ = unix.Madvise(r, unix.MADV_HUGEPAGE)
	// MLOCK_ONFAULT (Linux 4.4) locks what is touched, and faults nothing in. It costs
	// nothing, and leaves huge pages huge.
	_, _, _ = unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(&r[0])), uintptr(len(r)), unix.MLOCK_ONFAULT)
	return r, nil
}

// populate brings all of r into memory, so that nothing has to be found for it while
// a guest stands still.
func (r hostMemory) populate() error {
	err := unix.Madvise(r, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EINVAL) { // Linux before 5.14
		for i := 0; i < len(r); i += phys.PageSize {
			r[i] = 0
		}
		return nil
	}
	return err
}

// free gives the memory back.
func (r hostMemory) free() error {
	if r == nil {
		return nil
	}
	if err := unix.Munmap(r); err != nil {
		return fmt.Errorf("free the spool: %w", err)
	}
	return nil
}
