package vmstate

import (
	"encoding/binary"
	"fmt"
	"strings"

	"snap/phys"
)

// Flags in the low bits of a RAM record, whose high bits are an offset in the
// block (QEMU: migration/ram.c, RAM_SAVE_FLAG_*).
const (
	flagFull     = 0x001
	flagZero     = 0x002
	flagMemSize  = 0x004
	flagPage     = 0x008
	flagEOS      = 0x010
	flagContinue = 0x020
	flagXBZRLE   = 0x040
	flagHook     = 0x080
	flagCompress = 0x100
	flagMultifd  = 0x200

	flagMask = phys.PageSize - 1
)

const (
	ramName    = "ram"
	ramVersion = 4

	defaultMaxRAM = 64 << 40
	// maxBlocks bounds the RAM blocks: DIMMs, ROMs and video memories. QEMU has
	// 256 memory slots.
	maxBlocks = 4096
)

// ramParser reads the sections of RAM.
type ramParser struct {
	*cursor
	maxRAM uint64
	id     uint32 // of the section
	blocks []*Block
	byName map[string]*Block
	last   *Block // that the last page record was for, in any section
	data   uint64
	zero   uint64
}

// sections reads RAM and returns the sections of devices that come before it.
// It stops in front of the first device after RAM.
func (r *ramParser) sections() (early []header, err error) {
	for part := false; ; {
		at := r.pos
		t, err := r.u8("section type")
		switch {
		case err != nil:
		case t == sectionStart && r.blocks == nil:
			err = r.start()
		case r.blocks == nil:
			err = r.wrongType(at, t)
		case t == sectionPart:
			part = true
			err = r.part()
		case t == sectionFull && part:
			r.pos = at
			return early, nil
		case t == sectionFull:
			var h header
			h, err = r.early()
			early = append(early, h)
			if err == nil && len(early) > maxSections {
				err = fmt.Errorf("%w: offset %#x: more than %d sections", ErrLimit, at, maxSections)
			}
		default:
			err = r.wrongType(at, t)
		}
		if err != nil {
			return nil, err
		}
	}
}

// early skips a section that a device wants loaded before RAM. Its length is
// known only from the description, which is at the end.
func (r *ramParser) early() (header, error) {
	h, err := r.header()
	if err != nil {
		return h, err
	}
	body, err := r.skipToFooter(h, 0, func(c *cursor) bool {
		part := binary.BigEndian.AppendUint32([]byte{sectionPart}, r.id)
		if c.rest() >= len(part) && string(c.b[c.pos:c.pos+len(part)]) == string(part) {
			return true
		}
		return looksFull(c)
	})
	h.size = uint64(len(body))
	return h, err
}

// start reads the START section after its type byte: the list of blocks.
func (r *ramParser) start() error {
	h, err := r.header()
	if err != nil {
		return err
	}
	if h.name != ramName || h.instance != 0 {
		return r.errorf(h.at, "section %q instance %d is saved while the guest runs; know only %q", h.name, h.instance, ramName)
	}
	if h.version != ramVersion {
		return r.errorf(h.at, "section %q has version %d; want %d", h.name, h.version, ramVersion)
	}
	r.id = h.id
	if err := r.blockList(); err != nil {
		return err
	}
	at := r.pos
	eos, err := r.be64("RAM record")
	if err != nil {
		return err
	}
	if eos != flagEOS {
		return r.errorf(at, "RAM record %#x after the list of blocks; want the end of the section", eos)
	}
	return r.footer(h.id)
}

func (r *ramParser) blockList() error {
	at := r.pos
	rec, err := r.be64("size of RAM")
	if err != nil {
		return err
	}
	if rec&flagMask != flagMemSize {
		return r.badFlags(at, rec)
	}
	total := rec &^ flagMask
	if total == 0 {
		return r.errorf(at, "no RAM")
	}
	if total > r.maxRAM {
		return fmt.Errorf("%w: offset %#x: %d bytes of RAM; want at most %d", ErrLimit, at, total, r.maxRAM)
	}
	r.byName = make(map[string]*Block)
	for total > 0 {
		if len(r.blocks) == maxBlocks {
			return fmt.Errorf("%w: offset %#x: more than %d RAM blocks", ErrLimit, r.pos, maxBlocks)
		}
		at := r.pos
		name, err := r.name("name of a RAM block")
		if err != nil {
			return err
		}
		size, err := r.be64("size of a RAM block")
		if err != nil {
			return err
		}
		switch {
		case name == "" || size == 0 || size%phys.PageSize != 0:
			return r.errorf(at, "RAM block %q of %d bytes", name, size)
		case size > total:
			return r.errorf(at, "RAM block %q of %d bytes; only %d are left of the total", name, size, total)
		case r.byName[name] != nil:
			return r.errorf(at, "RAM block %q is listed twice", name)
		}
		b := newBlock(name, size, r.b)
		r.blocks = append(r.blocks, b)
		r.byName[name] = b
		total -= size
	}
	return nil
}

// part reads a PART section after its type byte.
func (r *ramParser) part() error {
	at := r.pos - 1
	id, err := r.be32("section id")
	if err != nil {
		return err
	}
	if id != r.id {
		return r.errorf(at, "part of section %d; RAM is section %d", id, r.id)
	}
	if err := r.records(); err != nil {
		return err
	}
	return r.footer(id)
}

// records reads page records up to the end of the section. It touches no more
// of a page with content than its first byte's neighbour.
func (r *ramParser) records() error {
	for {
		at := r.pos
		if r.rest() < 8 {
			return r.truncated("RAM record")
		}
		rec := binary.BigEndian.Uint64(r.b[at:])
		r.pos += 8
		flags := rec & flagMask
		switch flags &^ flagContinue {
		case flagPage, flagZero:
		case flagEOS:
			if rec == flagEOS {
				return nil
			}
			return r.badFlags(at, rec)
		default:
			return r.badFlags(at, rec)
		}
		if flags&flagContinue == 0 {
			if err := r.switchBlock(); err != nil {
				return err
			}
		} else if r.last == nil {
			return r.errorf(at, "page record continues a block; none was named")
		}
		page := rec >> phys.PageShift
		if page >= r.last.pages() {
			return r.errorf(at, "page at %#x is outside of block %q of %#x bytes", rec&^flagMask, r.last.Name, r.last.Size)
		}
		var err error
		if flags&flagPage != 0 {
			err = r.dataPage(at, page)
		} else {
			err = r.zeroPage(at, page)
		}
		if err != nil {
			return err
		}
	}
}

func (r *ramParser) switchBlock() error {
	at := r.pos
	name, err := r.name("name of a RAM block")
	if err != nil {
		return err
	}
	b := r.byName[name]
	if b == nil {
		return r.errorf(at, "page of block %q, which isn't listed", name)
	}
	r.last = b
	return nil
}

func (r *ramParser) dataPage(at int, page uint64) error {
	if r.rest() < phys.PageSize {
		return r.truncated("page")
	}
	if !r.last.setData(page, r.pos) {
		return r.twice(at, page)
	}
	r.pos += phys.PageSize
	r.data++
	return nil
}

func (r *ramParser) zeroPage(at int, page uint64) error {
	if r.rest() < 1 {
		return r.truncated("fill byte")
	}
	if fill := r.b[r.pos]; fill != 0 {
		return r.errorf(at, "page filled with %#02x; only zero pages are sent so", fill)
	}
	r.pos++
	if !r.last.setZero(page) {
		return r.twice(at, page)
	}
	r.zero++
	return nil
}

func (r *ramParser) twice(at int, page uint64) error {
	return r.errorf(at, "page %#x of block %q is there twice", page<<phys.PageShift, r.last.Name)
}

// badFlags makes the error for a record with flags that can't be there.
func (r *ramParser) badFlags(at int, rec uint64) error {
	names := []struct {
		flag uint64
		name string
	}{
		{flagFull, "FULL"},
		{flagZero, "ZERO"},
		{flagMemSize, "MEM_SIZE"},
		{flagPage, "PAGE"},
		{flagEOS, "EOS"},
		{flagContinue, "CONTINUE"},
		{flagXBZRLE, "XBZRLE"},
		{flagHook, "HOOK"},
		{flagCompress, "COMPRESS_PAGE"},
		{flagMultifd, "MULTIFD_FLUSH"},
	}
	var have []string
	rest := rec & flagMask
	for _, n := range names {
		if rest&n.flag != 0 {
			have = append(have, n.name)
			rest &^= n.flag
		}
	}
	if rest != 0 {
		have = append(have, fmt.Sprintf("%#x", rest))
	}
	if have == nil {
		have = []string{"none"}
	}
	return r.errorf(at, "RAM record %#x can't be here in a background snapshot; its flags: %s", rec, strings.Join(have, ", "))
}
