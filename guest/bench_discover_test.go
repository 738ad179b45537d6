package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

var benchMiB = flag.Uint64("discovery-mib", 512, "RAM of the guests in BenchmarkDiscovery, MiB")

// denseRAM is a guest's memory as a process of the host has it: bytes in one piece, low
// RAM first.
type denseRAM struct {
	b   []byte
	ram phys.Runs
}

func (m *denseRAM) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b := m.at(at, len(p))
	if b == nil {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	copy(p, b)
	return nil
}

// at returns the n bytes of memory at at, nil if they are not RAM.
func (m *denseRAM) at(at phys.Addr, n int) []byte {
	off := uint64(0)
	for _, r := range m.ram {
		if at >= r.Base.Addr() && uint64(at)+uint64(n) <= uint64(r.End().Addr()) {
			off += uint64(at - r.Base.Addr())
			return m.b[off : off+uint64(n)]
		}
		off += r.Size()
	}
	return nil
}

// dense returns the memory of a lab guest that has used all its RAM: what the guest
// itself doesn't is noise.
func dense(b *testing.B, im *ntlab.Image) *denseRAM {
	b.Helper()
	m := &denseRAM{make([]byte, im.RAM().Pages()<<phys.PageShift), im.RAM()}
	rng := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(m.b); i += 64 {
		binary.LittleEndian.PutUint64(m.b[i:], rng.Uint64())
	}
	for pfn, page := range im.Pages() {
		copy(m.at(pfn.Addr(), phys.PageSize), page[:])
	}
	return m
}

// readAll reads all memory once, a MiB at a time, by so many goroutines.
func readAll(ctx context.Context, m phys.Reader, ram phys.Runs, workers int) error {
	var next, failed atomic.Uint64
	x := phys.NewIndex(ram)
	const pages = 512 << 10 >> phys.PageShift
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			buf := make([]byte, pages<<phys.PageShift)
			for n := next.Add(pages) - pages; n < x.Pages(); n = next.Add(pages) - pages {
				for _, r := range x.Span(n, min(n+pages, x.Pages())) {
					if m.ReadPhys(ctx, buf[:r.Size()], r.Base.Addr()) != nil {
						failed.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	if failed.Load() > 0 {
		return fmt.Errorf("%d reads failed", failed.Load())
	}
	return nil
}

// BenchmarkDiscovery is how long it takes to find Windows by what is at hand, and beside
// a plain read of the same memory, to search all of it.
// docs/benchmarks/discovery.md has results and how to run it.
func BenchmarkDiscovery(b *testing.B) {
	size := *benchMiB << 20
	found := func(c ntlab.Config, registers bool) func(*testing.B) {
		return func(b *testing.B) {
			c.Memory, c.CPUs, c.Seed = size, 4, 9
			im := build(b, c)
			m := dense(b, im)
			cpus := im.Registers()
			if !registers {
				cpus = nil
			}
			for b.Loop() {
				s, err := guest.Discover(b.Context(), m, m.ram, cpus)
				if err != nil || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
					b.Fatal(s, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms")
		}
	}
	b.Run("registers", found(ntlab.Config{}, true))
	b.Run("registers-user-mode-KPTI", found(ntlab.Config{KPTI: true, UserMode: true}, true))
	b.Run("registers-4KiB-kernel", found(ntlab.Config{SmallPages: true}, true))
	b.Run("low-stub", found(ntlab.Config{}, false))
	b.Run("low-memory-scan", found(ntlab.Config{NoLowStub: true}, false))
	b.Run("all-memory", benchAllMemory)
}

// benchAllMemory reads all memory of a guest by one goroutine, by as many as there are
// processors, and searches it in vain, in turns, so that all have the same load beside
// them. It reports the best of each.
func benchAllMemory(b *testing.B) {
	im := build(b, ntlab.Config{Memory: *benchMiB << 20, NoLowStub: true, Seed: 9})
	m := dense(b, im)
	at, ok := im.EntryAddr(guest.KUSERAddress, 3)
	if !ok {
		b.Fatal("KUSER_SHARED_DATA is not mapped")
	}
	clear(m.at(at.PFN().Addr(), phys.PageSize)) // no page table maps it any more
	best := map[string]time.Duration{}
	b.SetBytes(3 * int64(len(m.b)))
	for b.Loop() {
		for name, do := range map[string]func() error{
			"read-ms":     func() error { return readAll(b.Context(), m, m.ram, 1) },
			"read-all-ms": func() error { return readAll(b.Context(), m, m.ram, runtime.GOMAXPROCS(0)) },
			"search-ms": func() error {
				if s, err := guest.Discover(b.Context(), m, m.ram, nil); !errors.Is(err, guest.ErrNotWindows) {
					return fmt.Errorf("Discover = %v, %w", s, err)
				}
				return nil
			},
		} {
			start := time.Now()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(start); best[name] == 0 || took < best[name] {
				best[name] = took
			}
		}
	}
	for name, d := range best {
		b.ReportMetric(float64(d.Microseconds())/1000, name)
	}
	b.ReportMetric(float64(best["search-ms"])/float64(best["read-ms"]), "search/read")
	b.ReportMetric(0, "ns/op")
}
