package dump

import (
	"context"
	"io"

	"snap/phys"
)

// MaxGaps is how many separate unreadable ranges Stats lists.
const MaxGaps = 256

// Stats says what a dump holds. Pages = Read + Unpopulated + Unreadable.
type Stats struct {
	Pages       uint64 // in the dump
	Read        uint64 // read from the guest
	Zero        uint64 // of those, pages that held only zeros
	Unpopulated uint64 // not read, because the source knows them to be zero
	Unreadable  uint64 // could not be read; zeros in the dump

	// Gaps are the unreadable pages in file order, at most MaxGaps ranges;
	// GapsOmitted is the number of unreadable pages that it leaves out.
	Gaps        []Gap
	GapsOmitted uint64

	BytesRead    uint64 // from the guest, Read * phys.PageSize
	DumpBytes    uint64 // length of the expanded dump
	BytesWritten uint64 // length of the file as written

	// PlainSHA256 is the SHA-256 of the expanded dump, as sha256sum prints it; empty
	// without Options.PlainSum.
	PlainSHA256 string
}

// Gap is a range of guest pages that could not be read.
type Gap struct {
	Run    phys.Run
	Reason string
}

// Write writes the dump that p describes to w, reading the guest's memory
// from mem. It returns when everything is written, or with the first error;
// what was written by then is not a valid dump, and nothing runs on.
//
// A page that mem can't read is a gap: zeros in the dump, counted in Stats.
// Only failures of type *phys.AccessError or of class phys.ErrNotRAM are gaps;
// any other, and a source that fails for long stretches, ends the dump with
// ErrSource.
//
// If w is a HoleWriter and there is no compression, stretches of zeros become
// holes. Write does not sync or close w. ctx ends reads from mem; it
// can't end a write to w that blocks.
func Write(ctx context.Context, w io.Writer, mem phys.Reader, p *Plan, o Options) (*Stats, error) {
	return writeIn(ctx, w, mem, p, o, containers())
}

// writeIn is Write in one of the given containers.
func writeIn(ctx context.Context, w io.Writer, mem phys.Reader, p *Plan, o Options, all []container) (*Stats, error) {
	l, err := p.layout()
	if err != nil {
		return nil, err
	}
	c, err := o.resolve(all)
	if err != nil {
		return nil, err
	}
	return write(ctx, w, mem, l, c, o)
}
