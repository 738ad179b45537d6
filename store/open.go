package store

import (
	"context"
	"io"
)

// Options are of a place.
type Options struct {
	// Force lets a file replace another one of the same name.
	Force bool

	// NoSum leaves File.Sum empty. Hashing costs about a second for each GiB
	// where the processor has no SHA instructions.
	NoSum bool

	// Guardian, if not nil, is told of the files that are being made.
	Guardian Guardian

	// Stdout is what "-" stands for; nil is os.Stdout.
	Stdout io.Writer

	// S3 is of places in buckets.
	S3 S3

	// Note, if not nil, is told what a place could not be asked, though it does no harm.
	Note func(text string)
}

// kind is one kind of place. A new one is one file with a function that returns
// one of these, and a line in kinds.
type kind struct {
	forms []string // of destinations that it takes, for help

	// takes reports whether a destination is of that kind. The kinds are asked in
	// the order of the list.
	takes func(dest string) bool

	// open returns the place and the name in it that the destination asks for, ""
	// if it leaves the name to the caller.
	open func(dest string, o Options) (Place, string, error)

	// archive returns what lies at a destination, nil where that can't be had.
	archive func(ctx context.Context, dest string, o Options) (Archive, error)
}

// kinds returns all kinds of places. The last one takes whatever the others
// don't.
func kinds() []kind {
	return []kind{
		stdoutKind(),
		s3Kind(),
		folderKind(),
	}
}

// Open returns the place that a destination names: standard output (see IsStdout),
// a bucket (see IsS3), or a path. The name is that of the file there; it is empty, and
// the caller makes one, where the destination is a folder: it exists as such, or
// ends in "/". Of a destination without a place, such as a folder that doesn't
// exist, the error is that of the place alone.
func Open(dest string, o Options) (place Place, name string, err error) {
	return open(dest, o, kinds())
}

func open(dest string, o Options, kinds []kind) (Place, string, error) {
	place, name, err := kindOf(dest, kinds).open(dest, o)
	if err != nil {
		return nil, "", err
	}
	return newInterruptible(place), name, nil
}

// kindOf returns the first kind that takes a destination.
func kindOf(dest string, kinds []kind) kind {
	i := 0
	for i < len(kinds)-1 && !kinds[i].takes(dest) {
		i++
	}
	return kinds[i]
}

// Forms returns how destinations are written, as words for help.
func Forms() []string { return forms(kinds()) }

func forms(kinds []kind) []string {
	var out []string
	for _, k := range kinds {
		out = append(out, k.forms...)
	}
	return out
}
