package dump

import (
	"encoding/binary"
	"slices"
	"sort"

	"snap/input"
	"snap/phys"
)

// The index of the frames in an archive is an extra field of its directory, with a
// header id that nobody else has (APPNOTE.TXT 4.6, and those of Info-ZIP's
// extrafld.txt), which others pass over:
//
//	00  01              version
//	01  log2 of how many frames there are to an entry: a group
//	02  00 00
//	04  expanded bytes of a frame, 32 bits
//	08  expanded bytes of the dump's header, 32 bits
//	0C  for some entries in a row of the same length, a number (base 128, the lowest
//	    7 bits first): twice that length; and, with 1 added to it, a second number:
//	    how many there are
//
// The header is in frames of its own, as is what follows it. A field has room for
// 65,535 bytes, as has all of a directory's entry (4.4.10): where there are more frames
// than fit, two groups become one until they do.
const (
	zipIndexField   = 'S' | 'P'<<8
	zipIndexVersion = 1
	zipIndexHead    = 12

	// maxZipIndex leaves room for the rest of the directory's entry.
	maxZipIndex = 65_000
	// maxZipGroups bounds the memory for an index that is being made, 4 bytes each.
	maxZipGroups = 1 << 16
)

// zipIndex is an index that is being made.
type zipIndex struct {
	frameSize, header uint32

	shift  uint
	groups []uint32 // stored bytes
	n      uint64   // frames in the last of them
	none   bool     // a group would be larger than a reader takes
}

// add takes the next frame, of so many stored bytes, into the index.
func (x *zipIndex) add(stored uint64) {
	if x.none {
		return
	}
	if x.n == 0 {
		if len(x.groups) == maxZipGroups && !x.join() {
			return
		}
	}
	if x.n == 0 {
		x.groups = append(x.groups, 0)
	}
	x.groups[len(x.groups)-1] += uint32(stored)
	x.n = (x.n + 1) & (1<<x.shift - 1)
}

// join makes groups of twice as many frames. It is false if there can't be any.
func (x *zipIndex) join() bool {
	if uint64(x.frameSize)<<(x.shift+1) > maxExpandedFrame {
		x.none, x.groups = true, nil
		return false
	}
	odd := len(x.groups)%2 == 1
	for i := 0; i < len(x.groups); i += 2 {
		sum := x.groups[i]
		if i+1 < len(x.groups) {
			sum += x.groups[i+1]
		}
		x.groups[i/2] = sum
	}
	x.groups = x.groups[:(len(x.groups)+1)/2]
	// The last group has room for more where its second half is missing, or not full.
	size := uint64(1) << x.shift
	switch {
	case odd && x.n == 0:
		x.n = size
	case !odd && x.n > 0:
		x.n += size
	}
	x.shift++
	return true
}

// encode returns the field, nil if there can be none. Nothing is added after it.
func (x *zipIndex) encode() []byte {
	for !x.none && len(x.groups) > 0 {
		if b := x.bytes(); len(b) <= maxZipIndex {
			return b
		}
		x.join()
	}
	return nil
}

func (x *zipIndex) bytes() []byte {
	b := []byte{zipIndexVersion, byte(x.shift), 0, 0}
	b = binary.LittleEndian.AppendUint32(b, x.frameSize)
	b = binary.LittleEndian.AppendUint32(b, x.header)
	for rest := x.groups; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n] == rest[0] {
			n++
		}
		v := uint64(rest[0]) << 1
		if n > 1 {
			v |= 1
		}
		if b = binary.AppendUvarint(b, v); n > 1 {
			b = binary.AppendUvarint(b, uint64(n))
		}
		rest = rest[n:]
	}
	return b
}

// zipGroups is an index that is read.
type zipGroups struct {
	frameSize, header, pages uint64 // expanded bytes
	shift                    uint
	runs                     []groupRun
}

// groupRun is some groups in a row of the same length.
type groupRun struct {
	stored uint32
	end    int64 // the number of the group behind them
}

// readZipIndex reads the index of a deflated member, which it trusts in nothing: all
// groups together must be the member, stored and expanded.
func readZipIndex(b []byte, m *input.Member) (*frameTable, error) {
	bad := func(format string, args ...any) error { return formatError(-1, "zip index", format, args...) }
	if len(b) < zipIndexHead || b[0] != zipIndexVersion {
		return nil, bad("%d bytes that begin with % x; want version %d", len(b), b[:min(len(b), 4)], zipIndexVersion)
	}
	le := binary.LittleEndian
	g := &zipGroups{shift: uint(b[1]), frameSize: uint64(le.Uint32(b[4:])), header: uint64(le.Uint32(b[8:]))}
	if g.shift > 14 || g.frameSize < phys.PageSize || g.frameSize%phys.PageSize != 0 || g.frameSize<<g.shift > maxExpandedFrame {
		return nil, bad("groups of 2^%d frames of %d bytes; the most is %d bytes", g.shift, g.frameSize, maxExpandedFrame)
	}
	if g.header == 0 || g.header > maxHeader || m.Expanded < int64(g.header) {
		return nil, bad("a header of %d bytes in a dump of %d", g.header, m.Expanded)
	}
	g.pages = uint64(m.Expanded) - g.header
	frames := ceilDiv(g.header, g.frameSize) + ceilDiv(g.pages, g.frameSize)
	if frames > maxFrames {
		return nil, bad("%d frames; the most is %d", frames, maxFrames)
	}
	want := int64(ceilDiv(frames, 1<<g.shift))
	var stored uint64
	var err error
	if g.runs, stored, err = readGroups(b[zipIndexHead:], want); err != nil {
		return nil, err
	}
	if n := uint64(len(deflateEnd)); stored+n != uint64(m.Stored) {
		return nil, bad("%d bytes in frames; the archive has %d", stored, m.Stored)
	}
	return newFrameTable(m.At+m.Stored, g.walk(m.At))
}

// readGroups reads the lengths of so many groups, and returns their sum.
func readGroups(b []byte, want int64) (runs []groupRun, stored uint64, err error) {
	bad := func(format string, args ...any) error { return formatError(-1, "zip index", format, args...) }
	var have int64
	number := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	for len(b) > 0 {
		v, ok := number()
		n := uint64(1)
		if ok && v&1 != 0 {
			n, ok = number()
		}
		if v >>= 1; !ok || v == 0 || v > uint64(storedBound(maxExpandedFrame)) || n == 0 || n > uint64(want-have) {
			return nil, 0, bad("%d groups of %d bytes, behind %d of %d", n, v, have, want)
		}
		have += int64(n)
		stored += n * v
		runs = append(runs, groupRun{uint32(v), have})
	}
	if have != want {
		return nil, 0, bad("%d groups; want %d", have, want)
	}
	return slices.Clip(runs), stored, nil
}

// walk is the frameWalk of the groups, the first of which stands at a file offset.
func (g *zipGroups) walk(first int64) frameWalk {
	return func(from place, use func(place, frameRef) (bool, error)) error {
		at, i := from.at, from.entry
		if i == 0 {
			at = first
		}
		for r := sort.Search(len(g.runs), func(r int) bool { return g.runs[r].end > i }); r < len(g.runs); r++ {
			for ; i < g.runs[r].end; i++ {
				f := frameRef{at: at, entry: entry{stored: g.runs[r].stored, expanded: uint32(g.begin(uint64(i)+1) - g.begin(uint64(i)))}}
				if more, err := use(place{at: at, entry: i}, f); err != nil || !more {
					return err
				}
				at += int64(f.stored)
			}
		}
		return nil
	}
}

// begin returns the expanded offset at which a group begins, or the dump's end.
func (g *zipGroups) begin(group uint64) uint64 {
	frame := group << g.shift
	heads := ceilDiv(g.header, g.frameSize)
	if frame < heads {
		return frame * g.frameSize
	}
	return g.header + min((frame-heads)*g.frameSize, g.pages)
}
