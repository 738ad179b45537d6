package store

import "io"

// blockBytes is how much is gathered for one write.
const blockBytes = 1 << 20

// blocks gathers small pieces into large writes. Nothing follows a write that failed.
type blocks struct {
	w     io.Writer
	block []byte
	total uint64 // bytes written, to the block or on
}

// Write implements io.Writer.
func (b *blocks) Write(p []byte) (int, error) {
	if b.block == nil {
		b.block = make([]byte, 0, blockBytes)
	}
	total := len(p)
	b.total += uint64(total)
	for len(p) > 0 {
		n := min(len(p), cap(b.block)-len(b.block))
		b.block = append(b.block, p[:n]...)
		p = p[n:]
		if len(b.block) < cap(b.block) {
			continue
		}
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	return total, nil
}

// flush writes what was gathered. Memory of a write that failed is left to it: one that
// was given up may go on with that.
func (b *blocks) flush() error {
	if len(b.block) == 0 {
		return nil
	}
	write := b.w.Write
	if l, ok := b.w.(Borrower); ok {
		write = l.WriteLent
	}
	if _, err := write(b.block); err != nil {
		b.block = nil
		return err
	}
	b.block = b.block[:0]
	return nil
}
