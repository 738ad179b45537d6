package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"snap/hv"
)

// ErrUnknown says that a file is of no format that is known. It is an
// hv.ErrFormat.
var ErrUnknown = fmt.Errorf("not recognised: %w", hv.ErrFormat)

// Options say what a file can't say of itself. The zero value leaves all to the
// file.
type Options struct {
	// Raw: the file is an image of guest memory with nothing around it, whatever
	// its first bytes look like.
	Raw bool

	// Segments are the ranges of memory in a raw image, in any order. nil is all
	// of the file's whole pages, from guest-physical 0 on.
	Segments []Segment
}

// format is one kind of file that holds a guest. A new one is one file with a
// function that returns one of these, and a line in formats.
type format struct {
	name string // for messages; empty if it is known but can't be read

	// takes reports whether a file is of the format, by its first headSize bytes,
	// fewer if it is shorter. The formats are asked in the order of the list.
	takes func(head []byte, o Options) bool

	// open reads the file, which belongs to the source from then on, unless open
	// fails.
	open func(f *os.File, o Options) (hv.Source, error)
}

// formats returns all formats. This list is all that the rest of the package
// knows of them.
func formats() []format {
	return []format{
		raw(), // first: it is one because the caller says so
		elfCore(),
		kdump(),
	}
}

// headSize is how many bytes decide of which format a file is.
const headSize = 16

// Open opens a file that holds a guest: an ELF core, or a raw image if the
// options say so. The error is hv.ErrFormat if it is damaged or doesn't fit the
// segments, ErrUnknown if it is something else, and hv.ErrUnsupported if it is of a
// format that is known but can't be read.
func Open(path string, o Options) (hv.Source, error) { return openAs(path, o, formats()) }

func openAs(path string, o Options, all []format) (hv.Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	src, err := recognise(f, o, all)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), f.Close())
	}
	return src, nil
}

// recognise opens f as the first format that takes it.
func recognise(f *os.File, o Options, all []format) (hv.Source, error) {
	if _, err := length(f); err != nil {
		return nil, err
	}
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read its first bytes: %w", err)
	}
	for _, k := range all {
		if k.takes(head[:n], o) {
			return k.open(f, o)
		}
	}
	if n < headSize {
		return nil, fmt.Errorf("file ends within %d bytes at 0: %w", headSize, ErrUnknown)
	}
	return nil, fmt.Errorf("it begins with % x, and is no %s: %w", head, known(all), ErrUnknown)
}

// known names the formats that can be read, those that say what they are before
// the one that doesn't.
func known(all []format) string {
	var names []string
	for _, k := range slices.Backward(all) {
		if k.name != "" {
			names = append(names, k.name)
		}
	}
	return strings.Join(names, " or ")
}
