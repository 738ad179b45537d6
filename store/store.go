// Package store is where files go: a place takes a file under a name and gives
// it that name only when it is whole.
//
// A File is written from its start to its end, may be read back, and is then
// committed or aborted: whoever finds the name finds all of the file, and after
// an abort, or a crash, nothing that looks like it. The hash of a file is made
// here, by what writes its last byte, so that it is of the file as it is stored,
// whatever lies between the one who writes and the place.
package store

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrWriteOnly says that a place takes files but doesn't give them back.
var ErrWriteOnly = errors.New("what was written there can't be read back")

// Place takes files. It is safe for concurrent use.
type Place interface {
	// Path returns how people and scripts call the file of that name there: an
	// absolute path, "-", a URL.
	Path(name string) string

	// Check fails as Create would, as far as that can be told without making
	// anything: the name is taken or can't be had, or nothing may be written there.
	Check(ctx context.Context, name string) error

	// Space returns how many bytes a file there may have now.
	Space(ctx context.Context) (Space, error)

	// ReadsBack reports whether what Reopen returns can be read.
	ReadsBack() bool

	// Create begins a file, in which only its owner may look. The caller ends
	// with Commit or Abort. ctx is that of the file's writes, too: a write that
	// waits for somebody who doesn't go on fails when it ends. The error is fs.ErrExist if the name is taken, by
	// anything but a file that may be replaced (Options.Force), and ErrOneFile
	// where there can't be another one.
	Create(ctx context.Context, name string) (File, error)
}

// File is a file that doesn't have its name yet. It is not safe for concurrent
// use, but what Reopen returns is.
type File interface {
	// Write appends to the file. Each call is one to the place, so small pieces
	// are better gathered before. After an error the file can only be aborted.
	io.Writer

	// Reopen returns what was written so far, to be read back before Commit: what
	// lies in the place, as far as that can be had, and not what a cache before it
	// has. It belongs to the File, is not closed, and is not read after Commit or
	// Abort. The error is ErrWriteOnly where that can't be. A file of Encrypt ends
	// with it.
	Reopen(ctx context.Context) (r io.ReaderAt, size int64, err error)

	// Sum returns the SHA-256 of what was written so far, in hexadecimal, as
	// sha256sum prints it for the file; "" with Options.NoSum. It is of no use after
	// a Write that failed. A file of Encrypt ends with it, and it is of the encrypted
	// bytes.
	Sum() string

	// Commit gives the file its name; after that it survives a crash of the
	// host. Unless it was to be forced it replaces nothing, even if the name
	// was taken meanwhile. After an error there is no file, as after Abort,
	// unless all that failed is to make the name last: that error says so. A
	// file that was committed or aborted gives os.ErrClosed.
	Commit(ctx context.Context) error

	// Abort removes the file; what went to standard output stays. After Commit,
	// or another Abort, it does nothing. The error is ErrLeftBehind if nothing
	// answers where the file lies.
	Abort() error
}

// HoleWriter is a File that can leave out zeros.
type HoleWriter interface {
	File

	// WriteHole is Write of n zero bytes that need not take room.
	WriteHole(n int64) error
}

// HeldWriter is a File whose writes may wait for a disk, so that the host's cache
// isn't filled by them.
type HeldWriter interface {
	File

	// Held says whether somebody is held still until all is written: from then on
	// the cache takes what it can.
	Held(held bool)
}

// Sized is a File of a place that wants to know beforehand how long files become.
type Sized interface {
	File

	// Expect says, before anything is written, how many bytes the file has at most, as
	// far as that is known.
	Expect(size int64)
}

// Borrower is a File that can write memory without a copy of its own.
type Borrower interface {
	File

	// WriteLent is Write of memory that nobody writes to again if it fails: a call
	// that is given up may go on with it.
	WriteLent(p []byte) (int, error)
}

// KeptFile is a File that its place keeps for a time once it has its name.
type KeptFile interface {
	File

	// KeptUntil is until when nobody is let remove it; zero if that isn't so.
	KeptUntil() time.Time
}

// KeptUntil is until when a file is kept by its place, zero where it isn't.
func KeptUntil(f File) time.Time {
	if k, ok := f.(KeptFile); ok {
		return k.KeptUntil()
	}
	return time.Time{}
}

// Guardian removes in this process's stead, should it die, what it has begun.
type Guardian interface {
	// Token ends the names of the files that are being made: at most 30 bytes,
	// used by no other process.
	Token() string

	// Expect is called with the path of what is about to be made. If it fails
	// nobody would remove it, and so it isn't made. What gets its name only from whoever
	// makes it, as an upload, is told of before anything is in it: RemoveUnfinished knows
	// such a path.
	Expect(paths ...string) error
}
