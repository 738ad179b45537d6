package guest

import (
	"encoding/binary"
	"math/bits"

	"snap/phys"
)

// Kernels from Windows 8 on that were booted without a debugger keep the KDBG
// encoded. With the kernel's secrets N (KiWaitNever), A (KiWaitAlways) and V
// (the address of KdpDataBlockEncoded), each 64-bit word of it is
//
//	p = bswap(rol(e ^ N, N) ^ V) ^ A    (QEMU, contrib/elf2dmp/main.c)
//
// The secrets are not needed. Both bswap and rol distribute over XOR, so with
// n = N mod 64 the same is
//
//	p = c ^ bswap(rol(e, n))
//
// with one constant c for the whole block, and for two words
//
//	p2 ^ p3 = bswap(rol(e2 ^ e3, n))
//
// Word 2 of a plain block is its tag and size, word 3 the kernel's base. The
// base is known, the tag is fixed and the sizes are few, so e2 ^ e3 gives away
// the block and n, and then c follows from e2.

// cipher is what remains of the secrets: how the words of one block are encoded.
type cipher struct {
	rotate int    // n above, 0 to 63
	mask   uint64 // c above
}

// plain decodes a word.
func (c cipher) plain(e uint64) uint64 {
	return c.mask ^ bits.ReverseBytes64(bits.RotateLeft64(e, c.rotate))
}

// decode decodes a block in place.
func (c cipher) decode(block []byte) {
	for i := 0; i+8 <= len(block); i += 8 {
		w := block[i : i+8]
		binary.LittleEndian.PutUint64(w, c.plain(binary.LittleEndian.Uint64(w)))
	}
}

// encodedForm recognises the encoded words 2 and 3 of the KDBG of the kernel
// at one base.
type encodedForm struct {
	kernBase uint64
	// filter has a bit for the hash of each value that e2 ^ e3 can have: 64
	// rotations of 448 sizes. Nearly all other words fall through at once.
	filter [1 << filterBits / 64]uint64
}

const filterBits = 20

func filterHash(x uint64) uint64 {
	return x * 0x9E37_79B9_7F4A_7C15 >> (64 - filterBits) // Fibonacci hashing
}

func newEncodedForm(kernBase phys.VirtAddr) *encodedForm {
	f := &encodedForm{kernBase: uint64(kernBase)}
	for size := uint64(kdbgMinSize); size <= kdbgMaxSize; size += 8 {
		x := bits.ReverseBytes64(size<<32 | kdbgTag ^ f.kernBase)
		for n := range 64 {
			h := filterHash(bits.RotateLeft64(x, -n))
			f.filter[h/64] |= 1 << (h % 64)
		}
	}
	return f
}

// may reports whether e2 ^ e3 can belong to an encoded block; it errs only by
// saying yes, and not where two words are alike, as they are in most of memory.
func (f *encodedForm) may(e2, e3 uint64) bool {
	x := e2 ^ e3
	h := filterHash(x)
	return f.filter[h/64]&(1<<(h%64)) != 0 && x != 0
}

// encodedMatch is a way to read two encoded words as the start of a block.
type encodedMatch struct {
	cipher cipher
	size   uint32 // of the block, bytes
}

// match returns how to read e2 and e3, encoded with a rotation by n, as the tag, a
// possible size and the kernel's base, and whether they can be read so.
func (f *encodedForm) match(e2, e3 uint64, n int) (m encodedMatch, ok bool) {
	p2 := bits.ReverseBytes64(bits.RotateLeft64(e2^e3, n)) ^ f.kernBase
	size := uint32(p2 >> 32)
	if uint32(p2) != kdbgTag || !kdbgSizeOK(size) {
		return encodedMatch{}, false
	}
	mask := p2 ^ bits.ReverseBytes64(bits.RotateLeft64(e2, n))
	return encodedMatch{cipher{n, mask}, size}, true
}
