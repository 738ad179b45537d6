package dump

import "hash/crc32"

// CRC-32 of bytes that are hashed in pieces. A checksum is a polynomial over GF(2)
// modulo that of IEEE 802.3; what n bytes behind a piece do to it is a multiplication by
// x^8n, as zlib's crc32_combine has it (crc32.c).

// crcBehind returns what the checksum of a piece adds to that of the whole if n bytes
// follow it: the whole's is the XOR of all pieces', the last with n = 0.
func crcBehind(crc uint32, n uint64) uint32 { return crcTimes(crcPower(n), crc) }

// crcJoin returns the checksum of two pieces, the second of n bytes.
func crcJoin(first, second uint32, n uint64) uint32 { return crcBehind(first, n) ^ second }

// crcOfZeros returns the checksum of n zero bytes.
func crcOfZeros(n uint64) uint32 { return ^crcBehind(^uint32(0), n) }

// crcTimes multiplies two polynomials, the highest bit of each of which is that of x^0.
func crcTimes(a, b uint32) uint32 {
	var p uint32
	for m := uint32(1) << 31; m != 0 && a != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
			a ^= m
		}
		odd := b & 1
		b >>= 1
		if odd != 0 {
			b ^= crc32.IEEE
		}
	}
	return p
}

// crcPower returns x^8n.
func crcPower(n uint64) uint32 {
	p, square := uint32(1)<<31, uint32(1)<<23 // x^0, x^8
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			p = crcTimes(square, p)
		}
		square = crcTimes(square, square)
	}
	return p
}
