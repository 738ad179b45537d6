package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// maxKDBGs bounds how many blocks a kernel image is searched for. There is one
// in a sane guest; forged ones can't keep the real one from being found unless
// there are this many in front of it.
const maxKDBGs = 64

// FindKDBG searches the readable pages of a kernel image for debugger data
// blocks of that image, in plain and in encoded form, and returns them decoded
// and in ascending order of address. There is more than one only if somebody
// forged them. Without any, the error is of class ErrNoKDBG.
func FindKDBG(ctx context.Context, kernel *Image) ([]KDBG, error) {
	s := newKDBGScan(kernel.mem, kernel.Base, kernel.Size)
	if err := s.scan(ctx, kernel.Base, uint64(kernel.Size)); err != nil {
		return nil, err
	}
	if len(s.found) > 0 {
		return s.found, nil
	}
	err := fmt.Errorf("search the kernel image at %#x, %d of its %d pages readable: %w",
		uint64(kernel.Base), s.readable, kernel.Size/phys.PageSize, ErrNoKDBG)
	if s.rejected != nil {
		err = fmt.Errorf("%w (one begins as it should, as while the kernel is decoding it: %w)", err, s.rejected)
	}
	return nil, err
}

// kdbgScan searches memory for the KDBG of one kernel.
type kdbgScan struct {
	mem       VirtReader
	base      phys.VirtAddr // of the kernel
	imageSize uint32        // of the kernel
	form      *encodedForm
	found     []KDBG
	rejected  error // why the first block with a sound head wasn't taken
	readable  int   // pages
}

func newKDBGScan(mem VirtReader, base phys.VirtAddr, imageSize uint32) *kdbgScan {
	return &kdbgScan{mem: mem, base: base, imageSize: imageSize, form: newEncodedForm(base)}
}

// kdbgHead is how many bytes from a block's start tell whether it may be one.
const kdbgHead = 0x20

// scan searches the n bytes at at, both multiples of 8.
func (s *kdbgScan) scan(ctx context.Context, at phys.VirtAddr, n uint64) error {
	// A head that straddles two chunks is kept from the one for the next.
	const keep = kdbgHead - 8
	buf := make([]byte, keep+min(n, scanChunk))
	for done := uint64(0); done < n; {
		chunk := buf[keep : keep+min(n-done, scanChunk)]
		pages, err := readSparse(ctx, s.mem, chunk, at+phys.VirtAddr(done))
		if err != nil {
			return err
		}
		s.readable += pages
		first := 0
		if done == 0 {
			first = keep
		}
		window := buf[first : keep+len(chunk)]
		if pages > 0 {
			if err := s.heads(ctx, window, at+phys.VirtAddr(done)-phys.VirtAddr(keep-first)); err != nil {
				return err
			}
		}
		copy(buf, window[max(0, len(window)-keep):])
		done += uint64(len(chunk))
	}
	return nil
}

// heads looks at each position of b, which is memory from at on.
func (s *kdbgScan) heads(ctx context.Context, b []byte, at phys.VirtAddr) error {
	if len(b) < kdbgHead {
		return nil
	}
	base := uint64(s.base)
	w2 := binary.LittleEndian.Uint64(b[0x10:])
	for i := 0; i+kdbgHead <= len(b); i += 8 {
		w3 := binary.LittleEndian.Uint64(b[i+0x18:])
		if plain := uint32(w2) == kdbgTag && w3 == base; plain || s.form.may(w2, w3) {
			if err := s.inspect(ctx, at+phys.VirtAddr(i), w2, w3, plain); err != nil {
				return err
			}
		}
		w2 = w3
	}
	return nil
}

// inspect adds the block at at if it is one.
func (s *kdbgScan) inspect(ctx context.Context, at phys.VirtAddr, w2, w3 uint64, plain bool) error {
	if len(s.found) >= maxKDBGs {
		return nil
	}
	var tries []encodedMatch
	if plain {
		tries = []encodedMatch{{size: uint32(w2 >> 32)}}
	} else {
		tries = s.form.matches(w2, w3)
	}
	for _, try := range tries {
		if !kdbgSizeOK(try.size) {
			continue
		}
		r, err := readRecord(ctx, s.mem, "KDBG", at, int(try.size))
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue // it reaches into a page that isn't there
		}
		k := KDBG{At: at, Block: r.b, Encoded: !plain}
		if !plain {
			try.cipher.decode(k.Block)
		}
		if err = k.check(s.imageSize); err == nil {
			s.found = append(s.found, k)
			return nil
		}
		if s.rejected == nil {
			s.rejected = err
		}
	}
	return nil
}
