package ntlab

// rng is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
// number generators"). It is written out here so that an image stays the same
// bytes for the same seed under every Go release.
type rng struct{ s uint64 }

func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// stream returns a generator of its own for one purpose, so that drawing more
// numbers for one part of an image doesn't move another.
func stream(seed, purpose uint64) *rng {
	return &rng{mix64(seed ^ mix64(purpose+0x9e3779b97f4a7c15))}
}

func (r *rng) u64() uint64 {
	r.s += 0x9e3779b97f4a7c15
	return mix64(r.s)
}

// below returns a number in [0, n).
func (r *rng) below(n uint64) uint64 { return r.u64() % n }

// between returns a number in [lo, hi].
func (r *rng) between(lo, hi uint64) uint64 { return lo + r.below(hi-lo+1) }

func (r *rng) coin() bool { return r.u64()>>63 != 0 }

func (r *rng) fill(p []byte) {
	for len(p) >= 8 {
		le.PutUint64(p, r.u64())
		p = p[8:]
	}
	if len(p) > 0 {
		var last [8]byte
		le.PutUint64(last[:], r.u64())
		copy(p, last[:])
	}
}

// shuffle permutes n things.
func (r *rng) shuffle(n int, swap func(i, j int)) {
	for i := n - 1; i > 0; i-- {
		swap(i, int(r.below(uint64(i+1))))
	}
}
