package dump

import (
	"context"
	"errors"
	"fmt"
	"io"

	"snap/header"
	"snap/input"
	"snap/phys"
)

// Container describes how a dump is stored.
type Container struct {
	Compression Compression
	FileSize    int64 // bytes of the file as it is stored

	// RandomAccess: ReadAt and ReadPhys work. It is false for gzip, and for
	// deflated files in zip archives, that snap did not write.
	RandomAccess bool

	// Of zstd, and of gzip and zip with random access:

	Frames    int  // independent frames that hold data
	FrameSize int  // expanded bytes of the largest frame
	Checksums bool // each frame has a checksum
	WholeSum  bool // there is one of the dump as a whole, instead
}

// File is a dump that can be read as if it were the plain file. It trusts
// nothing in it. All methods but Close are safe for concurrent use.
type File struct {
	container Container
	stored    io.ReaderAt // the file's bytes
	body      body
	closers   []io.Closer
	metadata  []byte

	raw       []byte // the header's bytes
	header    *header.Header
	headerErr error
	bitmap    *header.Bitmap
	layout    layout // of a dump of pages; else without any
}

var _ phys.Reader = (*File)(nil)

// Open opens the dump at path: plain, in the zstd seekable format, or gzip. If it
// is none of them, or its container is damaged, errors.Is(err, ErrFormat). What
// can't be read at any offset, and the files of other tools, give an
// *input.Refusal. What the dump holds is not an error of Open: see Header.
func Open(path string) (*File, error) {
	r, err := input.Open(path)
	if err != nil {
		return nil, err
	}
	return OpenFile(r)
}

// OpenFile is Open of a file that was opened before. r belongs to the File; it is
// closed if OpenFile fails.
func OpenFile(r *input.File) (*File, error) {
	f, err := NewFile(r, r.Size())
	if err == nil {
		f.Own(r)
		return f, nil
	}
	if foreign, _ := input.Foreign(r, r.Size(), r.Name()); foreign != nil {
		err = foreign
	} else {
		err = fmt.Errorf("open dump %s: %w", r.Name(), err)
	}
	return nil, errors.Join(err, r.Close())
}

// NewFile reads the dump of size bytes in r, which it does not close. r must
// be safe for concurrent use.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	return newFile(r, size, containers())
}

// Own lets Close close c too, such as the file of NewFile.
func (f *File) Own(c io.Closer) { f.closers = append(f.closers, c) }

// sniffed is how many bytes decide what a file is.
const sniffed = 8

// Recognise returns the container of a file by its first 8 bytes, and false if
// they don't begin a dump. A file that begins with fewer is none.
func Recognise(head []byte) (Compression, bool) {
	if len(head) < sniffed {
		return "", false
	}
	c, ok := sniff(head, containers())
	return c.name, ok
}

func newFile(r io.ReaderAt, size int64, all []container) (*File, error) {
	var head [sniffed]byte
	if size < int64(len(head)) {
		return nil, formatError(-1, "dump", "only %d bytes", size)
	}
	if err := readFull(r, head[:], 0); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	c, ok := sniff(head[:], all)
	if !ok {
		return nil, formatError(0, "signature", "% x is neither a dump nor one in %s", head[:], compressing(all))
	}
	in, err := c.open(r, size)
	if err != nil {
		return nil, err
	}
	in.Compression, in.FileSize = c.name, size
	f := &File{container: in.Container, stored: r, body: in.body, metadata: in.metadata, layout: layout{pages: phys.NewIndex(nil)}}
	if in.close != nil {
		f.closers = append(f.closers, closeFunc(in.close))
	}
	if err := f.readHeader(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

type closeFunc func()

func (c closeFunc) Close() error { c(); return nil }

// readHeader decodes the header. Only that it begins one is needed to open a
// file, so that a bad one can be looked into.
func (f *File) readHeader() error {
	var head io.ReaderAt = f.body
	sequential, _ := f.body.(sequentialBody)
	if sequential != nil {
		head = sequential.head()
	}
	raw := make([]byte, header.Size64)
	n, err := head.ReadAt(raw, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read header: %w", err)
	}
	size, err := header.SizeOf(raw[:n])
	if err != nil {
		return &FormatError{Off: -1, Field: "header", Err: err}
	}
	if n < size {
		return formatError(-1, "header", "%d bytes, want %d", n, size)
	}
	f.raw = raw[:size]
	f.layout.start = uint64(size)
	f.header, err = header.Decode(f.raw)
	if err == nil {
		err = f.findPages(head)
	}
	if bad, ok := errors.AsType[*header.FormatError](err); ok {
		f.headerErr = &FormatError{Off: -1, Field: "header", Err: bad}
		err = nil
	}
	if err != nil {
		return err
	}
	if sequential != nil {
		return sequential.setSize(f)
	}
	return nil
}

// findPages takes the pages from the runs or the bitmap, in dumps that have
// either.
func (f *File) findPages(head io.ReaderAt) error {
	switch h := f.header; {
	case h.DumpType == header.DumpTypeFull:
		return f.layout.setRuns(h.Runs)
	case h.DumpType.HasBitmap():
		b, err := header.DecodeBitmap(head, h.Width)
		if err != nil {
			return err
		}
		f.bitmap, f.layout.start = b, b.FirstPage
		return f.layout.setRuns(b.Runs)
	}
	return nil
}

// Close releases the file. Nothing may use it any more.
func (f *File) Close() error {
	var errs []error
	for _, c := range f.closers {
		errs = append(errs, c.Close())
	}
	f.closers = nil
	return errors.Join(errs...)
}

// Container says how the dump is stored.
func (f *File) Container() Container { return f.container }

// Size returns the length of the expanded dump in bytes.
func (f *File) Size() int64 { return f.body.size() }

// Header returns the decoded header. It must not be changed. The error, of
// class ErrFormat, is that of a header that no reader could use; everything
// that needs the header fails with it then.
func (f *File) Header() (*header.Header, error) { return f.header, f.headerErr }

// RawHeader returns the header's bytes without a bitmap, decodable or not. They
// must not be changed.
func (f *File) RawHeader() []byte { return f.raw }

// Bitmap returns the decoded bitmap of pages, nil in dumps that are neither of
// type 5 nor 6. It must not be changed. One that no reader could use is an
// error of Header.
func (f *File) Bitmap() *header.Bitmap { return f.bitmap }

// Plan returns the plan that writes f's header and pages again, with f as the
// memory to read: the same bytes, but that the first page behind a bitmap is
// aligned, which Windows doesn't do, and that what follows the last page is
// left out. It fails for dumps that are of neither runs nor a bitmap.
func (f *File) Plan() (*Plan, error) {
	if f.headerErr != nil {
		return nil, f.headerErr
	}
	switch {
	case f.header.DumpType == header.DumpTypeFull:
		return &Plan{Header: f.raw, Runs: f.header.Runs}, nil
	case f.bitmap != nil:
		head, err := f.header.EncodeBitmap(f.bitmap.Runs)
		if err != nil {
			return nil, &FormatError{Off: -1, Field: "header", Err: err}
		}
		return &Plan{Header: head, Runs: f.bitmap.Runs}, nil
	}
	return nil, formatError(-1, "dump type", "a %v dump is not made of pages", f.header.DumpType)
}

// Metadata returns the JSON document that the writer stored, nil if there is
// none. It must not be changed, and it is as trustworthy as the file.
func (f *File) Metadata() []byte { return f.metadata }

// ReadAt implements io.ReaderAt over the expanded dump. Without
// Container.RandomAccess it fails with ErrSequential.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read dump at %d: negative offset", off)
	}
	return f.body.ReadAt(p, off)
}

// RAM returns the pages that are in the dump: those of a type 1 dump's runs, or
// of the bitmap of type 5 and 6. It is empty for other types, and must not be
// changed.
func (f *File) RAM() phys.Runs { return f.layout.pages.Set() }

// Complete returns nil if the file is long enough for the pages that its
// header lists.
func (f *File) Complete() error {
	if f.headerErr != nil {
		return f.headerErr
	}
	if have := uint64(f.Size()); have < f.layout.size() {
		return formatError(-1, "dump", "%d bytes, but with the header's %d pages it has %d: it is truncated",
			have, f.layout.pages.Pages(), f.layout.size())
	}
	return nil
}

// ReadPhys implements phys.Reader over the pages in the dump. Overlaid bytes
// read as they are in the dump, not as they were in the guest.
func (f *File) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.headerErr != nil {
		return f.headerErr
	}
	if len(p) == 0 {
		return nil
	}
	off, ok := f.layout.offset(at, uint64(len(p)))
	if !ok {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	if err := readFull(f, p, int64(f.layout.start+off)); err != nil {
		return &phys.AccessError{At: at, Len: len(p), Err: err}
	}
	return nil
}

// CheckFrames reads the whole file but for its holes, and verifies every checksum in
// it. progress may be nil.
func (f *File) CheckFrames(ctx context.Context, progress *Progress) error {
	if progress == nil {
		progress = new(Progress)
	}
	progress.Total.Store(uint64(f.Size()))
	return f.body.each(ctx, func(_ context.Context, p part) error {
		progress.Done.Add(uint64(p.size))
		return nil
	})
}

// readFull fills p from off on.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
