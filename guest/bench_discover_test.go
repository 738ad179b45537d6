package guest_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

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
	const pages = 1 << 20 >> phys.PageShift
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

// BenchmarkDiscovery is how long it takes to find Windows by what is at hand, beside a
// plain read of the same memory. In the last one, another system, all searches are in
// vain. docs/benchmarks/discovery.md has results and how to run it.
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
	read := func(workers int) func(*testing.B) {
		return func(b *testing.B) {
			m := dense(b, build(b, ntlab.Config{Memory: size, Seed: 9}))
			b.SetBytes(int64(len(m.b)))
			for b.Loop() {
				if err := readAll(b.Context(), m, m.ram, workers); err != nil {
					b.Fatal(err)
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
	b.Run("read-once", read(1))
	b.Run(fmt.Sprintf("read-once-by-%d", runtime.GOMAXPROCS(0)), read(runtime.GOMAXPROCS(0)))
	b.Run("not-Windows", func(b *testing.B) {
		im := build(b, ntlab.Config{Memory: size, NoLowStub: true, Seed: 9})
		m := dense(b, im)
		at, ok := im.EntryAddr(guest.KUSERAddress, 3)
		if !ok {
			b.Fatal("KUSER_SHARED_DATA is not mapped")
		}
		clear(m.at(at.PFN().Addr(), phys.PageSize)) // no page table maps it any more
		b.SetBytes(int64(len(m.b)))
		for b.Loop() {
			if s, err := guest.Discover(b.Context(), m, m.ram, nil); err == nil {
				b.Fatal(s)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms")
	})
}
