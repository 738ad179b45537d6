package guest_test

import (
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
)

// BenchmarkRefuse is how fast RAM is searched for page tables in vain.
func BenchmarkRefuse(b *testing.B) {
	m, ram, cpus := linux()
	b.SetBytes(int64(len(m)))
	for b.Loop() {
		if s, err := guest.Discover(b.Context(), m, ram, cpus); err == nil {
			b.Fatal(s)
		}
	}
}

func BenchmarkDiscover(b *testing.B) {
	im := build(b, ntlab.Config{})
	for b.Loop() {
		if _, err := guest.Discover(b.Context(), im, im.RAM(), im.Registers()); err != nil {
			b.Fatal(err)
		}
	}
}
