package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"snap/hv/internal/bounded"
)

// sinkStep is how much of a sink is taken from the host by one system call, so
// that a context's end is noticed in between.
const sinkStep = 256 << 20

// sink is memory of the host that QEMU saves a guest to. Nobody has to read it
// for QEMU to go on, and it is gone with its last user.
type sink struct {
	file  *os.File
	bytes []byte // once it is sealed
}

// newSink takes size bytes of memory from the host, for this process to account
// for. Up to limit bytes are taken as QEMU writes them; more fail to be written.
func newSink(ctx context.Context, size, limit uint64) (_ *sink, err error) {
	fail := func(err error) (*sink, error) {
		return nil, fmt.Errorf("get %d bytes of memory for the snapshot: %w", size, err)
	}
	if limit > 1<<62 || size > limit {
		return fail(unix.EFBIG)
	}
	fd, err := unix.MemfdCreate("snap-snapshot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fail(err)
	}
	s := &sink{file: os.NewFile(uintptr(fd), "snapshot")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := unix.Ftruncate(fd, int64(limit)); err != nil {
		return fail(err)
	}
	for at := uint64(0); at < size; at += sinkStep {
		if ctx.Err() != nil {
			return fail(bounded.Ended(ctx))
		}
		if err := allocate(fd, at, min(sinkStep, size-at)); err != nil {
			return fail(err)
		}
	}
	if err := s.seal(unix.F_SEAL_GROW | unix.F_SEAL_SHRINK); err != nil {
		return fail(err)
	}
	return s, nil
}

func allocate(fd int, at, n uint64) error {
	for {
		err := unix.Fallocate(fd, 0, int64(at), int64(n))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (s *sink) seal(how int) error {
	_, err := unix.FcntlInt(s.file.Fd(), unix.F_ADD_SEALS, how)
	return err
}

// writer opens the sink for QEMU, which may write but not read. The caller closes
// it.
func (s *sink) writer() (*os.File, error) { return s.reopen(os.O_WRONLY) }

func (s *sink) reopen(flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()), flags, 0)
}

// sealFor is how long the sink is tried to be sealed.
const sealFor = 10 * time.Second

// sealWrites has nobody write to the sink any more. The kernel refuses that while
// anything has a page of it in hand (memfd_wait_for_pins in mm/memfd.c), which
// whatever looks at the host's memory does now and then, for a moment.
func (s *sink) sealWrites(ctx context.Context) error {
	ctx, cancel := bounded.Within(ctx, sealFor)
	defer cancel()
	return bounded.Insist(ctx, time.Millisecond, time.Second, func(context.Context) (bool, error) {
		err := s.seal(unix.F_SEAL_WRITE | unix.F_SEAL_SEAL)
		return !errors.Is(err, unix.EBUSY), err
	})
}

// contents returns what was written. Nobody can change it from then on.
func (s *sink) contents(ctx context.Context) ([]byte, error) {
	if s.bytes != nil {
		return s.bytes, nil
	}
	if err := s.sealWrites(ctx); err != nil {
		return nil, fmt.Errorf("seal the snapshot: %w", err)
	}
	// A descriptor that can't write: with one that can, older kernels refuse to
	// map what is sealed.
	f, err := s.reopen(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the snapshot: %w", err)
	}
	s.bytes = b
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil {
		return nil, fmt.Errorf("keep the snapshot out of core dumps: %w", err)
	}
	// What is looked at stays off the swap disks as far as the limit on locked
	// memory allows (MLOCK_ONFAULT, Linux 4.4).
	_, _, _ = unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MLOCK_ONFAULT)
	return b, nil
}

// close gives the memory back.
func (s *sink) close() error {
	var err error
	if s.bytes != nil {
		err = unix.Munmap(s.bytes)
		s.bytes = nil
	}
	return errors.Join(err, s.file.Close())
}
