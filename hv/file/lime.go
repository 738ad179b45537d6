package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"snap/hv"
	"snap/phys"
)

// Layout of the header that LiME puts before each range of memory, and AVML too
// (LiME's doc/README, AVML's src/image.rs): magic and version, the first and the
// last guest-physical address, and 8 bytes of nothing.
const (
	limeMagic   = "EMiL"
	avmlMagic   = "AVML"
	limeVersion = 1
	avmlVersion = 2
	limeHeader  = 32
)

// lime is an image that LiME wrote, or AVML uncompressed: each range of memory with
// a header before it. It holds no registers.
func lime() format {
	return format{
		name:  "LiME image",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(limeMagic)) },
		open: func(ctx context.Context, b body, _ Options) (hv.Source, error) {
			segs, err := readLime(ctx, b)
			if err != nil {
				return nil, err
			}
			return newSource(b, hv.MechanismLiME, segs, nil)
		},
	}
}

// limeRange is a range's header.
type limeRange struct {
	compressed bool
	at         phys.Addr
	size       uint64 // bytes
	body       int64  // offset of what follows the header
}

// readLimeHeader reads the header at an offset.
func readLimeHeader(b body, off int64) (limeRange, error) {
	h := make([]byte, limeHeader)
	if err := readAt(b, h, uint64(off)); err != nil {
		return limeRange{}, fmt.Errorf("header at %#x: %w", off, err)
	}
	le := binary.LittleEndian
	magic, version := string(h[:4]), le.Uint32(h[4:])
	r := limeRange{compressed: magic == avmlMagic, at: phys.Addr(le.Uint64(h[8:])), body: off + limeHeader}
	last := phys.Addr(le.Uint64(h[16:]))
	switch {
	case magic != limeMagic && magic != avmlMagic:
		return limeRange{}, fmt.Errorf("no range begins at %#x, but % x: it is cut short or damaged: %w", off, h[:8], hv.ErrFormat)
	case magic == limeMagic && version != limeVersion, r.compressed && version != avmlVersion:
		return limeRange{}, fmt.Errorf("header at %#x: version %d of the format: %w", off, version, hv.ErrUnsupported)
	case last < r.at || last >= phys.MaxAddr:
		return limeRange{}, fmt.Errorf("header at %#x: memory from %#x to %#x: %w", off, uint64(r.at), uint64(last), hv.ErrFormat)
	}
	r.size = uint64(last-r.at) + 1
	return r, nil
}

// pages returns the whole pages of a range whose bytes begin at an offset, none if
// there is no whole page: tables of firmware end where they like.
func (r limeRange) pages(off int64) (Segment, bool) {
	skip := uint64(-r.at) % phys.PageSize
	if skip >= r.size {
		return Segment{}, false
	}
	size := (r.size - skip) &^ (phys.PageSize - 1)
	return Segment{GPA: r.at + phys.Addr(skip), Size: size, FileOffset: off + int64(skip)}, size > 0
}

// readLime reads the headers of all ranges.
func readLime(ctx context.Context, b body) ([]Segment, error) {
	var segs []Segment
	for off := int64(0); off < b.Size(); {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r, err := readLimeHeader(b, off)
		if err != nil {
			return nil, err
		}
		if r.compressed {
			return nil, fmt.Errorf("range at %#x is compressed, and others are not: %w", off, hv.ErrFormat)
		}
		if r.size > uint64(b.Size()-r.body) {
			return nil, fmt.Errorf("memory at %#x+%#x would be at %#x of the file, which ends at %#x: %w; it is cut short",
				uint64(r.at), r.size, r.body, b.Size(), hv.ErrFormat)
		}
		if g, ok := r.pages(r.body); ok {
			if len(segs) == maxSegments {
				return nil, fmt.Errorf("more than %d ranges of memory: %w", maxSegments, hv.ErrFormat)
			}
			segs = append(segs, g)
		}
		off = r.body + int64(r.size)
	}
	return segs, nil
}
