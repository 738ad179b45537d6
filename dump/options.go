package dump

import (
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"

	"snap/phys"
)

// Compression names the container of a dump file.
type Compression string

// Containers. The empty string is the default, the first of Compressions.
const (
	CompressionZstd Compression = "zstd" // Zstandard seekable format: random access, metadata, checksums
	CompressionGzip Compression = "gzip" // for where there is no zstd; no metadata
	CompressionZip  Compression = "zip"  // an archive of one file, which Windows opens; no metadata
	CompressionNone Compression = "none" // the plain dump; holes where the file system can have them
)

// Compressions returns all containers, the default first.
func Compressions() []Compression {
	var names []Compression
	for _, c := range containers() {
		names = append(names, c.name)
	}
	return names
}

// Suffix returns what a file name ends in after ".dmp" ("", ".zst", ".gz", ".zip").
func (c Compression) Suffix() string { return c.container().suffix }

// Doc returns what the container is for, a phrase for help.
func (c Compression) Doc() string { return c.container().doc }

// container returns what is known of c; if there is no such container, of the
// default.
func (c Compression) container() container {
	all := containers()
	if found, ok := find(c, all); ok {
		return found
	}
	return all[0]
}

// Level trades time for size.
type Level string

// Levels. The empty string is LevelFastest: on memory pages the slower levels
// gain little.
const (
	LevelFastest Level = "fastest"
	// LevelTurbo is for where the disk is faster than the processors. Only the zstd
	// container has more of it than LevelFastest.
	LevelTurbo   Level = "turbo"
	LevelDefault Level = "default"
	LevelBetter  Level = "better"
	LevelBest    Level = "best"
)

// Levels returns all levels, the default first. Each container makes its own of
// them.
func Levels() []Level {
	return []Level{LevelFastest, LevelTurbo, LevelDefault, LevelBetter, LevelBest}
}

// Doc returns what the level is for, a phrase for help.
func (l Level) Doc() string {
	switch l {
	case LevelTurbo:
		return "zstd without entropy coding: faster, and larger, for disks that outrun the processors"
	case LevelDefault:
		return "slower, and a little smaller"
	case LevelBetter:
		return "slower again, and hardly smaller"
	case LevelBest:
		return "the slowest and the smallest"
	default:
		return "fast: slower ones gain little on memory pages"
	}
}

// Verification is how much of a dump is decoded again while it is written.
type Verification string

// Verifications. The empty string is VerifyDecoded.
const (
	// VerifyDecoded decodes every frame as soon as it is encoded, and compares that
	// with what was encoded.
	VerifyDecoded Verification = "decoded"
	// VerifyStored does so with one frame in DecodedShare.
	VerifyStored Verification = "stored"
)

// DecodedShare is how many frames there are to one that VerifyStored decodes.
const DecodedShare = 16

// Verifications returns all of them, the default first.
func Verifications() []Verification { return []Verification{VerifyDecoded, VerifyStored} }

// Doc returns what v does, a phrase for help.
func (v Verification) Doc() string {
	if v == VerifyStored {
		return fmt.Sprintf("one frame in %d is", DecodedShare)
	}
	return "each frame is expanded again and compared with the guest's pages as it is written"
}

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
	Compression  Compression
	Level        Level
	Verification Verification

	// Name is what the file is called, of which containers that hold named files make
	// the name of the dump in them; empty is "memory".
	Name string

	// Workers is how many frames are read and compressed at a time; 0 is
	// GOMAXPROCS.
	Workers int

	// FrameSize is the number of expanded bytes in a frame, a multiple of
	// phys.PageSize up to MaxFrameSize; 0 is DefaultFrameSize. Smaller frames
	// make random access cheaper and compression worse.
	FrameSize int

	// Memory bounds the bytes held in buffers and in Proof; 0 is DefaultMemory.
	// Fewer workers run where it doesn't suffice. On top of it come the tables of
	// each worker's compressor, a few MiB, and the index of the zstd
	// container, 12 bytes per frame.
	Memory int64

	// Proof, if not nil, is what the file is held against when it is read back
	// (File.CheckStored). Write begins it anew.
	Proof *Proof

	// PlainSum has Stats.PlainSHA256 made, by one processor beside those that compress.
	PlainSum bool

	// Progress, if not nil, is kept up to date while the dump is written.
	Progress *Progress

	// Metadata, if not nil, is called once all pages are written; the JSON
	// document that it returns is stored in the zstd container. The other
	// containers can't hold one, and it is not called for them.
	Metadata func(*Stats) ([]byte, error)

	// Frame, if not nil, is called in the order of the file with what was put out
	// for each frame that doesn't hold only zeros, and how many of its pages were
	// read from the guest. The bytes are not kept.
	Frame func(stored []byte, read uint64)
}

// Progress counts what has been done. It is safe for concurrent use; whoever
// shows it polls.
type Progress struct {
	Total   atomic.Uint64 // bytes of the expanded dump
	Done    atomic.Uint64 // of those, bytes processed
	Written atomic.Uint64 // bytes put out so far
}

// resolve fills in all defaults, and returns the container that o asks for, one
// of all. The error names the option that is wrong.
func (o *Options) resolve(all []container) (container, error) {
	c, ok := find(o.Compression, all)
	if !ok {
		var names []Compression
		for _, c := range all {
			names = append(names, c.name)
		}
		return c, fmt.Errorf("compression %q: want %s", o.Compression, alternatives(names))
	}
	o.Compression = c.name
	levels := Levels()
	if o.Level == "" {
		o.Level = levels[0]
	}
	if !slices.Contains(levels, o.Level) {
		return c, fmt.Errorf("compression level %q: want %s", o.Level, alternatives(levels))
	}
	if o.Verification == "" {
		o.Verification = VerifyDecoded
	}
	if all := Verifications(); !slices.Contains(all, o.Verification) {
		return c, fmt.Errorf("verification %q: want %s", o.Verification, alternatives(all))
	}
	if o.FrameSize == 0 {
		o.FrameSize = DefaultFrameSize
	}
	if o.FrameSize < phys.PageSize || o.FrameSize > MaxFrameSize || o.FrameSize%phys.PageSize != 0 {
		return c, fmt.Errorf("frame size %d: want a multiple of %d up to %d", o.FrameSize, phys.PageSize, MaxFrameSize)
	}
	if o.Workers < 0 || o.Memory < 0 {
		return c, fmt.Errorf("%d workers in %d bytes of memory: want neither negative", o.Workers, o.Memory)
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
	return c, nil
}
