package capture

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"snap/phys"
)

// BenchmarkCopy copies 256 MiB of memory, of which a part is pages of zeros, to memory
// that is there already: by each layout, and what it takes while a guest stands still.
// Reading is a copy within the process here; process_vm_readv takes longer for a page, so
// that what packing adds is a smaller part of it.
func BenchmarkCopy(b *testing.B) {
	const pages = 256 << 20 >> phys.PageShift
	for _, percent := range []uint64{0, 25, 50, 75, 90} {
		m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: pages}}, bytes: make([]byte, pages<<phys.PageShift)}
		r := rand.New(rand.NewPCG(1, percent))
		for p := range pages {
			if page := m.bytes[p<<phys.PageShift:][:phys.PageSize]; r.Uint64N(100) >= percent {
				for i := range page {
					page[i] = byte(p + i)
				}
			} else {
				clear(page) // so that the memory is there
			}
		}
		for _, name := range []string{"flat", "packed"} {
			b.Run(fmt.Sprintf("%d%%-zero/%s", percent, name), func(b *testing.B) {
				l := layouts(b, pages)[name]
				defer func() { _ = l.free() }()
				b.SetBytes(pages << phys.PageShift)
				for b.Loop() {
					if p, ok := l.(*packedLayout); ok {
						p.taken.Store(0)
					}
					c := newMemoryCopyIn(l, m, m.ram, true)
					if err := c.fill(b.Context(), m, 2); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
