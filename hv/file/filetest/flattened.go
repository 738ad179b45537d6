package filetest

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// Flatten is a file in makedumpfile's flattened form, in records of n bytes,
// and those that are whole zeros left out with holes.
func Flatten(b []byte, n int, reorder bool) []byte {
	be := binary.BigEndian
	out := make([]byte, 4096)
	copy(out, "makedumpfile")
	be.PutUint64(out[16:], 1)
	be.PutUint64(out[24:], 1)
	var records [][]byte
	for off := 0; off < len(b); off += n {
		part := b[off:min(off+n, len(b))]
		if off > 0 && bytes.Equal(part, make([]byte, len(part))) && off+n < len(b) {
			continue
		}
		r := be.AppendUint64(nil, uint64(off))
		r = be.AppendUint64(r, uint64(len(part)))
		records = append(records, append(r, part...))
	}
	if reorder {
		slices.Reverse(records)
	}
	out = append(out, slices.Concat(records...)...)
	return append(out, bytes.Repeat([]byte{0xff}, 16)...)
}
