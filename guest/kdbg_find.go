package guest

import (
	"context"
	"encoding/binary"
	"errors"
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
//
// A page of memory is searched once, however often the image maps it, and no
// more of the image than any kernel has: the work is linear in that.
func FindKDBG(ctx context.Context, kernel *Image) ([]KDBG, error) {
	found, err := findKDBG(ctx, kernel, newBudget(1))
	if len(found) > 0 {
		return found, nil
	}
	return nil, err
}

// findKDBG is FindKDBG within a budget. Where a limit ended the search the error
// says so and is of class errBudget, whether there are blocks or not.
func findKDBG(ctx context.Context, kernel *Image, b *budget) ([]KDBG, error) {
	s := newKDBGScan(kernel.mem, kernel.Base, kernel.Size, b)
	err := s.image(ctx, kernel)
	return s.found, err
}

// image searches all of a kernel image that wasn't searched before.
func (s *kdbgScan) image(ctx context.Context, kernel *Image) error {
	err := s.scan(ctx, kernel.Base, min(uint64(kernel.Size), maxKernelSize))
	if err != nil || len(s.found) > 0 {
		return searching(kernel, err)
	}
	err = fmt.Errorf("search the kernel image at %#x, %d of its %d pages readable: %w",
		uint64(kernel.Base), s.readable, kernel.Size/phys.PageSize, ErrNoKDBG)
	if s.rejected != nil {
		err = fmt.Errorf("%w (one begins as it should, as while the kernel is decoding it: %w)", err, s.rejected)
	}
	return err
}

// searching says of the end of a budget what it ended.
func searching(kernel *Image, err error) error {
	if errors.Is(err, errBudget) {
		return fmt.Errorf("search the kernel image at %#x for its KDBG: %w", uint64(kernel.Base), err)
	}
	return err
}

// kdbgScan searches memory for the KDBG of one kernel. Each position costs a few
// instructions, whatever is there: what tells a block is looked at in the memory
// at hand, and only what holds is read as a block.
type kdbgScan struct {
	mem       VirtReader
	base      phys.VirtAddr // of the kernel
	imageSize uint32        // of the kernel
	budget    *budget
	form      *encodedForm
	seen      pageSet // pages of RAM that were searched
	found     []KDBG
	rejected  error // why the first block with a sound head wasn't taken
	readable  int   // pages
	positions int   // that began as a block does
}

func newKDBGScan(mem VirtReader, base phys.VirtAddr, imageSize uint32, b *budget) *kdbgScan {
	return &kdbgScan{mem: mem, base: base, imageSize: imageSize, budget: b, form: newEncodedForm(base)}
}

// kdbgProbe is how many bytes from a block's start hold all that check looks at.
const kdbgProbe = 0x140

// prefetchKernel is how much of a kernel image is announced to memory that is read by
// few calls.
const prefetchKernel = 8 << 20

// scan searches the n bytes at at, both multiples of 8. A block that lies across
// pages of which one was searched at another address is not found.
func (s *kdbgScan) scan(ctx context.Context, at phys.VirtAddr, n uint64) error {
	// A probe that straddles two chunks is kept from the one for the next.
	const keep = kdbgProbe - 8
	buf := make([]byte, keep+min(n, scanChunk))
	kept := 0 // bytes before the chunk, at the end of buf[:keep]
	ahead, _ := s.mem.(prefetcher)
	for done, announced := uint64(0), uint64(0); done < n; {
		if ahead != nil && done >= announced {
			announced = min(n, done+prefetchKernel)
			ahead.prefetch(ctx, at+phys.VirtAddr(done), announced-done)
		}
		size, read, err := s.next(ctx, buf[keep:], at+phys.VirtAddr(done), n-done)
		if err != nil {
			return err
		}
		if read {
			window := buf[keep-kept : keep+size]
			if err := s.positionsOf(ctx, window, at+phys.VirtAddr(done)-phys.VirtAddr(kept)); err != nil {
				return err
			}
			kept = min(keep, len(window))
			copy(buf[keep-kept:keep], window[len(window)-kept:])
		} else {
			kept = 0
		}
		done += uint64(size)
	}
	return nil
}

// next fills the start of chunk with memory that was not searched before and
// returns how much; or read is false and so many bytes at at are passed over.
func (s *kdbgScan) next(ctx context.Context, chunk []byte, at phys.VirtAddr, left uint64) (size int, read bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	n, fresh := s.stretch(ctx, at, min(left, scanChunk))
	if !fresh {
		return int(n), false, ctx.Err()
	}
	if err := s.budget.spend(workKDBG, n); err != nil {
		return 0, false, err
	}
	pages, err := readSparse(ctx, s.mem, chunk[:n], at)
	s.readable += pages
	return int(n), pages > 0, err
}

// extents is memory whose pages can be told from each other, as an AddressSpace's.
type extents interface {
	Extent(ctx context.Context, va phys.VirtAddr) (phys.Extent, error)
}

var _ extents = (*AddressSpace)(nil)

// stretch returns how many of the n bytes at at, at least one page or all that is
// left, are mapped and were not searched before, or are to be passed over.
func (s *kdbgScan) stretch(ctx context.Context, at phys.VirtAddr, n uint64) (size uint64, fresh bool) {
	space, ok := s.mem.(extents)
	if !ok {
		return n, true
	}
	e, err := space.Extent(ctx, at)
	if err != nil {
		return min(n, missing(err, at)), false
	}
	size = min(e.Size, n)
	if e.Residence != phys.Resident {
		return size, false
	}
	first := uint64(0)
	for ; first < size; first += phys.PageSize {
		// The first page decides what the stretch is.
		if added := s.seen.add((e.At + phys.Addr(first)).PFN()); first == 0 {
			fresh = added
		} else if added != fresh {
			if added { // it begins the next stretch
				s.seen.remove((e.At + phys.Addr(first)).PFN())
			}
			break
		}
	}
	return min(first, size), fresh
}

// positionsOf looks at each position of b, which is memory from at on.
func (s *kdbgScan) positionsOf(ctx context.Context, b []byte, at phys.VirtAddr) error {
	if len(b) < kdbgProbe {
		return nil
	}
	base := uint64(s.base)
	w2 := binary.LittleEndian.Uint64(b[0x10:])
	for i := 0; i+kdbgProbe <= len(b); i += 8 {
		w3 := binary.LittleEndian.Uint64(b[i+0x18:])
		if plain := uint32(w2) == kdbgTag && w3 == base; plain || s.form.may(w2, w3) {
			if err := s.inspect(ctx, b[i:i+kdbgProbe], at+phys.VirtAddr(i), plain); err != nil {
				return err
			}
		}
		w2 = w3
	}
	return nil
}

// inspect adds the block at at if it is one. probe is its first bytes.
func (s *kdbgScan) inspect(ctx context.Context, probe []byte, at phys.VirtAddr, plain bool) error {
	w2, w3 := binary.LittleEndian.Uint64(probe[0x10:]), binary.LittleEndian.Uint64(probe[0x18:])
	if plain {
		return s.probe(ctx, probe, at, encodedMatch{size: uint32(w2 >> 32)}, true)
	}
	for n := range 64 { // rarely more than one of them matches
		if m, ok := s.form.match(w2, w3, n); ok {
			if err := s.probe(ctx, probe, at, m, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// probe adds the block of which probe is the start if it is one. Only a block
// whose fields hold is read.
func (s *kdbgScan) probe(ctx context.Context, probe []byte, at phys.VirtAddr, m encodedMatch, plain bool) error {
	s.positions++
	if !kdbgSizeOK(m.size) {
		return nil
	}
	k := KDBG{At: at, Block: probe, Encoded: !plain}
	if !plain {
		// Hardly anything else has the right value here.
		o := kdbgMmPageSize.Offset
		if m.cipher.plain(binary.LittleEndian.Uint64(probe[o:])) != phys.PageSize && s.rejected != nil {
			return nil
		}
		var b [kdbgProbe]byte
		k.Block = b[:copy(b[:], probe)]
		m.cipher.decode(k.Block)
	}
	if why, value := k.unsound(archOf(s.mem), s.imageSize); why != "" {
		if s.rejected == nil {
			s.rejected = malformed("KDBG", at, "%s %#x", why, value)
		}
		return nil
	}
	if len(s.found) >= maxKDBGs {
		return fmt.Errorf("%w: ended after %d debugger data blocks", errBudget, maxKDBGs)
	}
	r, err := readRecord(ctx, s.mem, "KDBG", at, int(m.size))
	if err != nil {
		return ctx.Err() // it reaches into a page that isn't there
	}
	k.Block = r.b
	if !plain {
		m.cipher.decode(k.Block)
	}
	// The guest runs: it may have changed since it was probed.
	if err := k.check(archOf(s.mem), s.imageSize); err == nil {
		s.found = append(s.found, k)
	} else if s.rejected == nil {
		s.rejected = err
	}
	return nil
}
