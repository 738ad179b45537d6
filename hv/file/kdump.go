package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"

	"snap/hv"
	"snap/input"
	"snap/phys"
)

// Layout of a kdump-compressed file (makedumpfile's IMPLEMENTATION and
// diskdump_mod.h; QEMU's include/sysemu/dump.h): blocks with the header, a second
// header, a bitmap of the pages that exist and one of those that are in the file,
// a descriptor for each of these in ascending order, and their data.
const (
	kdumpMagic     = "KDUMP   "
	kdumpMachine   = 12 + 4*65 // of struct new_utsname
	kdumpHeader32  = 412       // of the fields after the time, by the width of that
	kdumpHeader64  = 424
	kdumpFields    = 36 // of them, as far as they are used
	kdumpSubSize   = 104
	kdumpSubSize32 = 80
	kdumpDescSize  = 24

	kdumpIncomplete = 0x8 // of the status: the file system was full
)

// maxKdumpVersion is the newest version of the header that is known.
const maxKdumpVersion = 6

// kdumpCache is how many pages are kept decoded: 4 MiB.
const kdumpCache = 1024

// kdump is a kdump-compressed core, as `virsh dump --memory-only --format
// kdump-zlib` and makedumpfile write it.
func kdump() format {
	return format{
		name:  "kdump-compressed core",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(kdumpMagic)) },
		open: func(ctx context.Context, b body, _ Options) (hv.Source, error) {
			k, found, err := openKdump(ctx, b)
			if err != nil {
				return nil, err
			}
			segs := make([]Segment, 0, len(k.ram))
			for _, r := range k.ram {
				segs = append(segs, Segment{GPA: r.Base.Addr(), Size: r.Size(), FileOffset: int64(r.Base.Addr())})
			}
			end := int64(k.ram.End().Addr())
			s, err := newSource(&unfolded{body: b, ReaderAt: k, size: end}, hv.MechanismKdump, segs, found.regs)
			if err != nil {
				return nil, err
			}
			s.notes, s.lost, s.published = k.notes, k.lost, found.published
			return s, nil
		},
	}
}

// kdumpFile reads memory by its guest-physical address.
type kdumpFile struct {
	r      io.ReaderAt
	size   int64
	ram    phys.Runs   // the pages of which it is known what was in them
	index  *phys.Index // of those in the file; the others hold zeros
	lost   uint64      // pages that the guest had besides
	descAt int64       // of the first page's descriptor
	cache  *pieces     // of pages, by PFN
	notes  []string    // of pages that were left out
}

// kdumpHeader is what is used of both headers.
type kdumpHeader struct {
	version, status, bitmapBlocks, subBlocks uint32
	level                                    uint32 // which kinds of pages were left out
	maxPFN                                   uint64
	noteAt, noteSize                         uint64
}

// openKdump reads all but the pages and their descriptors.
func openKdump(ctx context.Context, b body) (*kdumpFile, *notes, error) {
	h, err := readKdumpHeader(b)
	if err != nil {
		return nil, nil, err
	}
	if h.status&kdumpIncomplete != 0 {
		return nil, nil, fmt.Errorf("the file system was full when it was written, and so it is incomplete: %w", hv.ErrFormat)
	}
	found := &notes{}
	if h.noteSize > 0 {
		if found, err = readNotes(b, h.noteAt, h.noteSize); err != nil {
			return nil, nil, err
		}
	}
	const block = phys.PageSize
	at := (1 + int64(h.subBlocks)) * block
	bitmap := int64(h.bitmapBlocks) * block
	k := &kdumpFile{r: b, size: b.Size(), descAt: at + bitmap, cache: newPieces(kdumpCache)}
	need := int64((h.maxPFN + 7) / 8)
	// One that isn't filtered may have one bitmap instead of two.
	second := at
	if rounded := (need + block - 1) / block * block; bitmap >= 2*rounded {
		bitmap /= 2
		second += bitmap
	}
	if bitmap < need {
		return nil, nil, fmt.Errorf("the bitmap has %d bytes for %d pages: %w", bitmap, h.maxPFN, hv.ErrFormat)
	}
	set, err := readBitmap(ctx, io.NewSectionReader(b, second, need), second, h.maxPFN)
	if err != nil {
		return nil, nil, err
	}
	if len(set) == 0 {
		return nil, nil, fmt.Errorf("there is no page in it: %w", hv.ErrFormat)
	}
	if err := k.setRAM(ctx, io.NewSectionReader(b, at, need), at, h, set); err != nil {
		return nil, nil, err
	}
	k.index = phys.NewIndex(set)
	if n := k.index.Pages(); n > uint64(max(k.size-k.descAt, 0))/kdumpDescSize {
		return nil, nil, fmt.Errorf("it lists %d pages, for whose descriptors it is too short: it is cut short: %w", n, hv.ErrFormat)
	}
	return k, found, nil
}

func readKdumpHeader(r io.ReaderAt) (kdumpHeader, error) {
	b := make([]byte, kdumpHeader64+kdumpFields)
	if err := readAt(r, b, 0); err != nil {
		return kdumpHeader{}, err
	}
	le := binary.LittleEndian
	machine, _, _ := bytes.Cut(b[kdumpMachine:kdumpMachine+65], []byte{0})
	switch m := string(machine); m {
	case "", "x86_64", "i386", "i486", "i586", "i686":
	default:
		return kdumpHeader{}, fmt.Errorf("the core is for machine %q: %w", m, ErrArch)
	}
	// The fields after the time follow 4 or 8 bytes for each of its halves.
	h := kdumpHeader{version: le.Uint32(b[8:])}
	wide, f := true, b[kdumpHeader64:]
	if le.Uint32(f[4:]) != phys.PageSize {
		wide, f = false, b[kdumpHeader32:]
	}
	if size := le.Uint32(f[4:]); size != phys.PageSize {
		return kdumpHeader{}, fmt.Errorf("blocks of %d bytes; want %d: %w", size, phys.PageSize, hv.ErrFormat)
	}
	if h.version > maxKdumpVersion {
		return kdumpHeader{}, fmt.Errorf("version %d of the format; known are those up to %d: %w", h.version, maxKdumpVersion, hv.ErrUnsupported)
	}
	h.status, h.subBlocks, h.bitmapBlocks = le.Uint32(f), le.Uint32(f[8:]), le.Uint32(f[12:])
	h.maxPFN = uint64(le.Uint32(f[16:]))
	if h.subBlocks == 0 || h.subBlocks > maxNoteBytes/phys.PageSize {
		return kdumpHeader{}, fmt.Errorf("a second header of %d blocks: %w", h.subBlocks, hv.ErrFormat)
	}
	if err := h.readSub(r, wide); err != nil {
		return kdumpHeader{}, err
	}
	if limit := uint64(phys.MaxAddr.PFN()); h.maxPFN == 0 || h.maxPFN > limit {
		return kdumpHeader{}, fmt.Errorf("memory up to page %#x; want 1 to %#x: %w", h.maxPFN, limit, hv.ErrFormat)
	}
	return h, nil
}

// readSub reads the second header.
func (h *kdumpHeader) readSub(r io.ReaderAt, wide bool) error {
	b := make([]byte, kdumpSubSize)
	if err := readAt(r, b, phys.PageSize); err != nil {
		return err
	}
	le := binary.LittleEndian
	level, split, maxPFN := le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint64(b[72:])
	noteAt, noteSize := le.Uint64(b[32:]), uint64(le.Uint32(b[40:]))
	if wide {
		level, split, maxPFN = le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint64(b[96:])
		noteAt, noteSize = le.Uint64(b[48:]), le.Uint64(b[56:])
	}
	if h.version >= 2 && split != 0 {
		return &input.Refusal{
			What: "one part of a kdump-compressed core that was split", Why: "the others are missing",
			Next: "put them together first: makedumpfile --reassemble PART PART OUT",
		}
	}
	if h.version >= 1 {
		h.level = level
	}
	if h.version >= 4 {
		h.noteAt, h.noteSize = noteAt, noteSize
	}
	if h.version >= 6 {
		h.maxPFN = maxPFN
	}
	return nil
}

// readBitmap returns the pages whose bits are set, of the first n.
func readBitmap(ctx context.Context, r io.Reader, at int64, n uint64) (phys.Runs, error) {
	var runs phys.Runs
	buf := make([]byte, 64<<10)
	for first := uint64(0); first < n; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := buf[:min(uint64(len(buf)), (n-first+7)/8)]
		if err := readNext(r, part, uint64(at)+first/8); err != nil {
			return nil, fmt.Errorf("bitmap: %w", err)
		}
		for i, c := range part {
			for base := first + uint64(i)*8; c != 0; {
				skip := bits.TrailingZeros8(c)
				length := bits.TrailingZeros8(^(c >> skip))
				pfn := base + uint64(skip)
				if pfn >= n {
					break
				}
				r := phys.Run{Base: phys.PFN(pfn), Pages: min(uint64(length), n-pfn)}
				if k := len(runs); k > 0 && runs[k-1].End() == r.Base {
					runs[k-1].Pages += r.Pages
				} else if runs = append(runs, r); k >= maxSegments {
					return nil, fmt.Errorf("more than %d stretches of memory: %w", maxSegments, hv.ErrFormat)
				}
				c &^= byte(1<<(skip+length) - 1)
			}
		}
		first += uint64(len(part)) * 8
	}
	return runs, nil
}

// ReadAt implements io.ReaderAt over the guest's memory, what is in the RAM map of it.
func (k *kdumpFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := phys.Addr(off) + phys.Addr(done)
		n, held := k.index.Number(at.PFN())
		if !held { // zeros, which need no place in the cache
			zeros := p[done:][:min(uint64(len(p)-done), phys.PageSize-at.Offset())]
			clear(zeros)
			done += len(zeros)
			continue
		}
		page, err := k.cache.get(int64(at.PFN()), func() ([]byte, error) { return k.page(at.PFN(), n) })
		if err != nil {
			return done, err
		}
		done += copy(p[done:], page[at%phys.PageSize:])
	}
	return done, nil
}

// page reads and expands a page, the n-th of those in the file.
func (k *kdumpFile) page(p phys.PFN, n uint64) ([]byte, error) {
	desc := make([]byte, kdumpDescSize)
	at := k.descAt + int64(n)*kdumpDescSize
	if err := readAt(k.r, desc, uint64(at)); err != nil {
		return nil, fmt.Errorf("descriptor of page %#x: %w", uint64(p), err)
	}
	le := binary.LittleEndian
	off, size, flags := le.Uint64(desc), le.Uint32(desc[8:]), le.Uint32(desc[12:])
	if size == 0 || size > phys.PageSize || off > uint64(k.size) || uint64(size) > uint64(k.size)-off {
		return nil, fmt.Errorf("page %#x would be at %#x+%#x of the file, which ends at %#x: %w", uint64(p), off, size, k.size, hv.ErrFormat)
	}
	src := make([]byte, size)
	if err := readAt(k.r, src, off); err != nil {
		return nil, fmt.Errorf("page %#x: %w", uint64(p), err)
	}
	page, err := expandPage(src, flags)
	if err != nil {
		return nil, fmt.Errorf("page %#x at %#x of the file: %w", uint64(p), off, err)
	}
	return page, nil
}
