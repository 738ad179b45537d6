package store

import (
	"errors"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A dump is larger than what it is worth in the host's page cache, which belongs to
// the guests and to what else the host runs: what is written goes to the disk soon,
// and leaves the cache when it is there.
const (
	// behindPiece is how much is written before the disk is told of it: enough for
	// it to be written in one go.
	behindPiece = 8 << 20
	// behindPieces is how many of them may be on their way before a write waits for
	// the first: enough to keep a disk busy.
	behindPieces = 4
	// keptRead is how much of what is read back is kept in the cache: readers are
	// many, and near each other.
	keptRead = 32 << 20
)

// writeBehind sends what is written to a file on to its disk.
type writeBehind struct {
	held  bool        // nobody waits: the cache takes what it can
	off   bool        // the file can't do this
	from  int64       // where what the disk was not told of begins
	dirty int64       // bytes of that
	sent  []fileRange // what the disk was told of and may not have yet, ascending
}

// fileRange is a range of bytes of a file.
type fileRange struct{ off, size int64 }

// wrote notes that n bytes that end at offset end were written to f. An error is one
// of writing: the system tells of it once, and so fsync wouldn't again
// (file_check_and_advance_wb_err in Linux mm/filemap.c).
func (b *writeBehind) wrote(f *os.File, n int, end int64) error {
	if b.dirty += int64(n); b.off || b.held || b.dirty < behindPiece {
		return nil
	}
	r := fileRange{b.from, end - b.from}
	b.from, b.dirty = end, 0
	if err := b.sync(f, r, unix.SYNC_FILE_RANGE_WRITE); err != nil || b.off {
		return err
	}
	if b.sent = append(b.sent, r); len(b.sent) <= behindPieces {
		return nil
	}
	r, b.sent = b.sent[0], b.sent[1:]
	err := b.sync(f, r, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	forget(f, r)
	return err
}

// sync is sync_file_range(2), and does nothing from then on where there is no such
// thing, as with a file system in user space.
func (b *writeBehind) sync(f *os.File, r fileRange, flags int) error {
	for {
		err := unix.SyncFileRange(int(f.Fd()), r.off, r.size, flags)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ESPIPE), errors.Is(err, unix.ENOSYS),
			errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
			b.off = true
			return nil
		}
		return err
	}
}

// forget asks that what is on the disk of the range leaves the cache; size 0 is all
// that follows. That is as good as nobody having asked where it can't be.
func forget(f *os.File, r fileRange) {
	_ = unix.Fadvise(int(f.Fd()), r.off, r.size, unix.FADV_DONTNEED)
}

// forgetful reads a file that is not in the cache, and keeps it so. It is safe for
// concurrent use.
type forgetful struct {
	f    *os.File
	read atomic.Int64 // how far it was read when something was forgotten for the last time
}

// ReadAt implements io.ReaderAt.
func (r *forgetful) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.f.ReadAt(p, off)
	if last := r.read.Load(); off >= last+keptRead && r.read.CompareAndSwap(last, off) {
		forget(r.f, fileRange{0, off - keptRead/2})
	}
	return n, err
}

var _ io.ReaderAt = (*forgetful)(nil)
