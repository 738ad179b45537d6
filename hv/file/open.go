package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"snap/hv"
	"snap/input"
)

// ErrUnknown says that a file is of no format that is known. It is an
// hv.ErrFormat.
var ErrUnknown = fmt.Errorf("not recognised: %w", hv.ErrFormat)

// ErrArch says that a file holds a guest for a processor that isn't an x86 one.
var ErrArch = errors.New("a guest of another architecture than x86")

// Options say what a file can't say of itself. The zero value leaves all to the
// file.
type Options struct {
	// Raw: the file is an image of guest memory with nothing around it, whatever
	// its first bytes look like.
	Raw bool

	// Segments are the ranges of memory in a raw image, in any order. nil is all
	// of the file's whole pages, from guest-physical 0 on.
	Segments []Segment

	// Notes are what an operator should know of the segments: see hv.Noted.
	Notes []string

	// Scratch is where Open expands a compressed file to.
	Scratch input.Scratch
}

// format is one kind of file that holds a guest. A new one is one file with a
// function that returns one of these, and a line in formats.
type format struct {
	name string // for messages

	// takes reports whether a file is of the format, by its first headSize bytes,
	// fewer if it is shorter. The formats are asked in the order of the list.
	takes func(head []byte, o Options) bool

	// open reads the file, which belongs to the source from then on, unless open
	// fails.
	open func(ctx context.Context, b body, o Options) (hv.Source, error)
}

// formats returns all formats. This list is all that the rest of the package
// knows of them.
func formats() []format {
	return []format{
		raw(), // first: it is one because the caller says so
		elfCore(),
		kdump(),
		flattened(),
		lime(),
		avml(),
	}
}

// headSize is how many bytes decide of which format a file is.
const headSize = 16

// Recognise returns the name of the format of a file that holds a guest, by its
// first 16 bytes, and false if it is of none. A raw image isn't told by its bytes.
func Recognise(head []byte) (string, bool) {
	for _, k := range formats() {
		if k.takes(head, Options{}) {
			return k.name, true
		}
	}
	return "", false
}

// Open opens a file that holds a guest, or a raw image if the options say so. What
// can't be opened at all, and the files of other tools, give an *input.Refusal. The
// error is hv.ErrFormat if the file is damaged or doesn't fit the segments,
// ErrUnknown if it is of no format that is known, hv.ErrUnsupported if it is of one
// that can't be read, and ErrArch. It ends early when ctx does.
func Open(ctx context.Context, path string, o Options) (hv.Source, error) {
	f, err := input.Open(path)
	if err != nil {
		return nil, err
	}
	x, err := input.Expand(ctx, f, o.Scratch)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return New(ctx, x, o)
}

// New is Open of a file that was opened and expanded before. f belongs to the
// source; if New fails it is closed.
func New(ctx context.Context, f *input.File, o Options) (hv.Source, error) {
	return newAs(ctx, f, o, formats())
}

func newAs(ctx context.Context, f *input.File, o Options, all []format) (hv.Source, error) {
	src, err := recognise(ctx, &fileBody{File: f}, o, all)
	if err != nil {
		if _, ok := errors.AsType[*input.Refusal](err); !ok {
			err = fmt.Errorf("open %s: %w", f.Name(), err)
		}
		return nil, errors.Join(err, f.Close())
	}
	return src, nil
}

// recognise opens b as the first format that takes it.
func recognise(ctx context.Context, b body, o Options, all []format) (hv.Source, error) {
	if !o.Raw {
		r, err := input.Foreign(b, b.Size(), b.Name())
		if err != nil {
			return nil, err
		}
		if r != nil {
			return nil, r
		}
	}
	head := make([]byte, headSize)
	n, err := b.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read its first bytes: %w", err)
	}
	for _, k := range all {
		if k.takes(head[:n], o) {
			return k.open(ctx, b, o)
		}
	}
	return nil, fmt.Errorf("it begins with % x, which none of these does: %s: %w", head[:n], known(all), ErrUnknown)
}

// known names the formats that say what they are.
func known(all []format) string {
	var names []string
	for _, k := range all[1:] {
		names = append(names, k.name)
	}
	return strings.Join(names, ", ")
}
