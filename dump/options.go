package dump

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"snap/phys"
)

// Compression names the container of a dump file.
type Compression string

// Containers. The empty string is CompressionZstd.
const (
	CompressionZstd Compression = "zstd" // Zstandard seekable format: random access, metadata, checksums
	CompressionGzip Compression = "gzip" // for where there is no zstd; no metadata
	CompressionNone Compression = "none" // the plain dump; holes where the file system can have them
)

// Suffix returns what a file name ends in after ".dmp" ("", ".zst", ".gz").
func (c Compression) Suffix() string {
	switch c {
	case CompressionGzip:
		return ".gz"
	case CompressionNone:
		return ""
	default:
		return ".zst"
	}
}

// Level trades time for size.
type Level string

// Levels. The empty string is LevelFastest: on memory pages the slower levels
// gain little.
const (
	LevelFastest Level = "fastest"
	LevelDefault Level = "default"
	LevelBetter  Level = "better"
	LevelBest    Level = "best"
)

// Bounds of Options.
const (
	DefaultFrameSize = 1 << 20
	MaxFrameSize     = 64 << 20
	DefaultMemory    = 256 << 20
	maxWorkers       = 256
)

// Options says how a dump is written, not what is in it. The zero value is
// the default.
type Options struct {
	Compression Compression
	Level       Level

	// Workers is how many frames are read and compressed at a time; 0 is
	// GOMAXPROCS.
	Workers int

	// FrameSize is the number of expanded bytes in a frame, a multiple of
	// phys.PageSize up to MaxFrameSize; 0 is DefaultFrameSize. Smaller frames
	// make random access cheaper and compression worse.
	FrameSize int

	// Memory bounds the bytes held in buffers; 0 is DefaultMemory. Fewer
	// workers run where it doesn't suffice. On top of it come the tables of
	// each worker's compressor, a few MiB, and the index of the zstd
	// container, 12 bytes per frame.
	Memory int64

	// Progress, if not nil, is kept up to date while the dump is written.
	Progress *Progress

	// Metadata, if not nil, is called once all pages are written; the JSON
	// document that it returns is stored in the zstd container. The other
	// containers can't hold one, and it is not called for them.
	Metadata func(*Stats) ([]byte, error)

	// SkipHash leaves Stats.SHA256 empty. Hashing costs the writer about a
	// second per GiB written where the processor has no SHA instructions.
	SkipHash bool
}

// Progress counts what has been done. It is safe for concurrent use; whoever
// shows it polls.
type Progress struct {
	Total   atomic.Uint64 // bytes of the expanded dump
	Done    atomic.Uint64 // of those, bytes processed
	Written atomic.Uint64 // bytes put out so far
}

// resolve returns o with all defaults filled in, or an error that names the
// option that is wrong.
func (o Options) resolve() (Options, error) {
	switch o.Compression {
	case "":
		o.Compression = CompressionZstd
	case CompressionZstd, CompressionGzip, CompressionNone:
	default:
		return o, fmt.Errorf("compression %q: want %s, %s or %s", o.Compression, CompressionZstd, CompressionGzip, CompressionNone)
	}
	switch o.Level {
	case "":
		o.Level = LevelFastest
	case LevelFastest, LevelDefault, LevelBetter, LevelBest:
	default:
		return o, fmt.Errorf("compression level %q: want %s, %s, %s or %s", o.Level, LevelFastest, LevelDefault, LevelBetter, LevelBest)
	}
	if o.FrameSize == 0 {
		o.FrameSize = DefaultFrameSize
	}
	if o.FrameSize < phys.PageSize || o.FrameSize > MaxFrameSize || o.FrameSize%phys.PageSize != 0 {
		return o, fmt.Errorf("frame size %d: want a multiple of %d up to %d", o.FrameSize, phys.PageSize, MaxFrameSize)
	}
	if o.Workers < 0 || o.Memory < 0 {
		return o, fmt.Errorf("%d workers in %d bytes of memory: want neither negative", o.Workers, o.Memory)
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	o.Workers = min(o.Workers, maxWorkers)
	if o.Progress == nil {
		o.Progress = new(Progress)
	}
	return o, nil
}
