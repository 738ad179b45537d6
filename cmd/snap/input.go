package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
	"snap/dump"
	"snap/hv"
	"snap/hv/file"
	"snap/input"
	"snap/store"
)

// openInput opens a file that was named on the command line, whatever is in it. ctx is
// that of its reads, where it is at a server.
func (a *app) openInput(ctx context.Context, path string) (*input.File, error) {
	if store.IsS3(path) {
		r, err := store.OpenObject(ctx, path, store.Options{S3: a.s3.options()})
		if err != nil {
			return nil, err
		}
		return input.New(path, r)
	}
	f, err := input.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(path, "/") {
		err = next(err, "check the name; it is a file that is wanted: a domain is dumped with snap dump %s", shellWord(path))
	} else if errors.Is(err, fs.ErrNotExist) {
		err = next(err, "check the path: ls -l %s", shellPath(filepath.Dir(path)))
	}
	return f, err
}

// opener is openInput for the library.
func (a *app) opener(ctx context.Context) capture.Opener {
	return func(name string) (*input.File, error) { return a.openInput(ctx, name) }
}

// openDump opens a dump that was named on the command line. One that is compressed
// as a whole is expanded to memory, or into the folder scratch; with random, also
// one that could be read, but only from its start.
func (a *app) openDump(ctx context.Context, path, scratch string, random bool) (*dump.File, error) {
	f, err := a.openInput(ctx, path)
	if err != nil {
		return nil, err
	}
	f, d, err := a.expandInput(ctx, f, scratch, random)
	if d != nil {
		d.Own(f)
		return d, nil
	}
	if err != nil {
		return nil, err
	}
	head, err := headOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if name, ok := file.Recognise(head); ok {
		r, err := input.Foreign(f, f.Size(), f.Name())
		if r == nil && err == nil {
			r = &input.Refusal{
				Path: f.Name(), What: article(name) + " of a guest", Why: "it holds the guest's memory and is no dump yet",
				Next: "make a dump of it: snap convert FILE -o OUT",
			}
		}
		return nil, errors.Join(err, r, f.Close())
	}
	return dump.OpenFile(f)
}

// openGuest opens a file as what it is: a dump, or anything else that holds a
// guest. f is closed with what is returned, or if openGuest fails. What is
// compressed is expanded to memory, or into the folder scratch.
func (a *app) openGuest(ctx context.Context, f *input.File, in *inputFlags, scratch string) (hv.Source, *dump.File, error) {
	segments, err := in.segments()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	f, old, err := a.expandInput(ctx, f, scratch, true)
	if err != nil {
		return nil, nil, err
	}
	if old != nil && !in.raw {
		old.Own(f)
		return nil, old, nil
	}
	if old != nil { // it is said not to be one
		_ = old.Close() // it was only looked at
		old = nil
	}
	head, err := headOf(f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	var src hv.Source
	if _, isDump := dump.Recognise(head); isDump && !in.raw {
		old, err = dump.OpenFile(f)
	} else if maps := file.RawMaps(f.Size()); in.raw && segments == nil && len(maps) > 1 {
		src, err = bestRaw(ctx, f, maps)
	} else {
		src, err = file.New(ctx, f, file.Options{Raw: in.raw, Segments: segments})
	}
	if errors.Is(err, file.ErrUnknown) {
		err = fmt.Errorf("it is no dump: %w", err)
	}
	if errors.Is(err, file.ErrUnknown) || errors.Is(err, dump.ErrFormat) {
		err = next(err, "for a raw image of guest memory say so: --raw, and --ram for each range in it")
	}
	return src, old, err
}

// convertible fails for a dump of which no other one can be made. name is what messages
// call it.
func convertible(f *dump.File, name string) error {
	r, err := input.ForeignDump(f, f.Size(), name)
	if r == nil && err == nil && f.Complete() != nil {
		r, err = input.Foreign(f, f.Size(), name)
	}
	if r != nil {
		return r
	}
	return err
}

// bestRaw opens a raw image by the map that fits the guest in it best. f is closed
// with what is returned, or if bestRaw fails.
func bestRaw(ctx context.Context, f *input.File, maps []file.RawMap) (_ hv.Source, err error) {
	defer func() { err = errors.Join(err, f.Close()) }()
	sources := make([]hv.Source, 0, len(maps))
	best := -1
	defer func() {
		for i, src := range sources {
			if i != best {
				err = errors.Join(err, src.Close())
			}
		}
	}()
	for _, m := range maps {
		src, err := file.New(ctx, f.Dup(), file.Options{Raw: true, Segments: m.Segments, Notes: []string{fmt.Sprintf(
			"nobody said where the memory of the raw image belongs: it was taken as lying %s, which fits best what Windows says of its memory; --ram says it for certain", m.Name,
		)}})
		if err != nil {
			return nil, err
		}
		sources = append(sources, src)
	}
	chosen, err := capture.BestRAM(ctx, sources)
	if err != nil {
		return nil, next(err, "say where the memory of the image belongs with --ram GPA+SIZE@FILEOFFSET, once for each range; tried were those %s", rawMapNames(maps))
	}
	best = chosen
	return sources[best], nil
}

func rawMapNames(maps []file.RawMap) string {
	var names []string
	for _, m := range maps {
		names = append(names, m.Name)
	}
	return alternatives(names)
}

// sniffed is how many bytes of a file are looked at to tell dumps and guests apart.
const sniffed = 16

// headOf returns the first bytes of a file, fewer if it is shorter.
func headOf(f *input.File) ([]byte, error) {
	head := make([]byte, sniffed)
	n, err := f.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}

// expandInput takes away encryption, and what is compressed around a file, unless that
// is a dump's own container: that dump, which does not own f, is returned too if it can be read.
// With random, a container must give random access. f is closed if it fails.
func (a *app) expandInput(ctx context.Context, f *input.File, scratch string, random bool) (*input.File, *dump.File, error) {
	f, err := a.decryptInput(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	if (f.Decrypted() || a.requireEncryption) && scratch != noScratch {
		scratch = "" // what is or must be encrypted isn't left on a disk in clear
	}
	inside, name, err := input.Inside(f, f.Size(), sniffed)
	if name == "" && err == nil {
		return f, nil, nil
	}
	if err == nil {
		if d, ok := inContainer(f, inside, random); ok {
			return f, d, nil
		}
		if scratch == noScratch {
			err = fmt.Errorf("%w: it is in %s as a whole", dump.ErrSequential, name)
		}
	}
	if err == nil {
		err = a.mayExpandInMemory(os.DirFS("/"))
	}
	where := input.Scratch{Dir: scratch}
	if err == nil && scratch == "" {
		where.Memory, err = limits.Available(os.DirFS("/"))
		where.Memory /= 2
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	a.log.Info().Str("file", f.Name()).Str("compression", name).Str("where", expandedWhere(scratch)).
		Msg("expanding it first: the guest's memory lies there in clear, in a file without a name, until snap ends")
	x, err := input.Expand(ctx, f, where)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return x, nil, nil
}

// noScratch is what openDump takes for a folder where nothing may be expanded: what
// would have to be is refused then, with dump.ErrSequential.
const noScratch = "\x00"

func expandedWhere(dir string) string {
	if dir == "" {
		return "memory"
	}
	return dir
}

// inContainer reports whether a compressed file is a dump that can be read as it
// is, or would be were it whole. It returns the dump in the first case.
func inContainer(f *input.File, inside []byte, random bool) (*dump.File, bool) {
	head, err := headOf(f)
	if err != nil {
		return nil, false
	}
	if _, ok := dump.Recognise(head); !ok {
		return nil, false
	}
	if c, ok := dump.Recognise(inside); !ok || c != dump.CompressionNone {
		return nil, false
	}
	d, err := dump.NewFile(f, f.Size())
	if err != nil {
		return nil, dump.InFrames(f)
	}
	if !d.Container().RandomAccess && random {
		_ = d.Close() // it was only looked at
		return nil, false
	}
	return d, true
}

// scratchBeside returns the folder of an output that is a file there; "" for memory.
func scratchBeside(output string) string {
	if output == stdoutDestination || store.IsS3(output) {
		return ""
	}
	return filepath.Dir(output)
}

// refusalAdvice returns what an operator should do about a file that was refused.
func refusalAdvice(r *input.Refusal) string {
	name := r.Path
	if _, err := os.Stat(name); err != nil {
		name = "FILE"
	}
	return strings.ReplaceAll(r.Next, "FILE", shellPath(name))
}

// article is a name with a or an before it.
func article(name string) string {
	if strings.ContainsRune("AEIOUaeiou", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}
