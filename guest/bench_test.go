package guest_test

import (
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
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

// BenchmarkTranslate walks page tables that the address space has at hand.
func BenchmarkTranslate(b *testing.B) {
	im := build(b, ntlab.Config{SmallPages: true})
	space := guest.NewAddressSpace(im, im.RAM(), im.Truth.DirectoryTableBase)
	const pages = 512
	for b.Loop() {
		for i := range phys.VirtAddr(pages) {
			if _, err := space.Translate(b.Context(), im.Truth.KernelBase+i<<phys.PageShift); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/pages, "ns/page")
}
