package guest_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// Guests whose memory was scribbled over, in the pages that matter most, give
// an answer or an error, and nothing endless.
func TestScribbledGuests(t *testing.T) {
	const rounds = 14
	rng := rand.New(rand.NewPCG(11, 12))
	refused := 0
	for round := range rounds {
		im := build(t, ntlab.Config{Seed: 40 + uint64(round%4), Memory: 192 << 20, PlainKDBG: round%2 == 0, KPTI: round%3 == 0})
		scribble(t, im, rng, 1+round%24)
		r := &countingReader{Reader: im}
		s, err := guest.Discover(t.Context(), r, im.RAM(), im.Registers())
		if (s == nil) == (err == nil) {
			t.Fatalf("round %d: Discover = %v, %v", round, s, err)
		}
		if r.bytes.Load() > 8<<30 {
			t.Errorf("round %d: %d bytes were read", round, r.bytes.Load())
		}
		if err != nil {
			refused++
			continue
		}
		for _, p := range s.Processors {
			if p.ContextAt != 0 && (!p.ContextAt.Kernel() || p.VCPU >= len(im.Registers())) {
				t.Errorf("round %d: processor %+v", round, p)
			}
		}
		for _, run := range s.PhysicalMemory.Value {
			if !run.Valid() || !im.RAM().Covers(run.Base.Addr(), run.Size()) {
				t.Errorf("round %d: PhysicalMemory has %v, which is not RAM", round, run)
			}
		}
		// Only that they end: a list may well be broken.
		mods, modErr := s.Modules(t.Context())
		procs, procErr := s.Processes(t.Context())
		if len(mods) == 0 && modErr == nil || len(procs) == 0 && procErr == nil {
			t.Errorf("round %d: %d modules, %d processes and no error", round, len(mods), len(procs))
		}
	}
	if refused == 0 || refused == rounds {
		t.Errorf("%d of %d guests were refused; want some of each, or the test scribbles in the wrong places", refused, rounds)
	}
}

// scribble writes n odd values to the structures that discovery reads.
func scribble(t *testing.T, im *ntlab.Image, rng *rand.Rand, n int) {
	t.Helper()
	truth := &im.Truth
	places := []struct {
		at   phys.VirtAddr
		size uint64
	}{
		{truth.KernelBase, 0x400},
		{truth.KDBG, 0x380},
		{truth.SystemProcess, 0xA40},
		{truth.PsLoadedModuleList, 0x10},
		{truth.PsActiveProcessHead, 0x10},
		{guest.KUSERAddress, 0x3C8},
		{symbol(t, im, "KiProcessorBlock"), 0x40},
		{symbol(t, im, "PsInitialSystemProcess"), 8},
		{phys.VirtAddr(read(t, im, symbol(t, im, "MmPhysicalMemoryBlock"))), 0x50},
		{truth.Processors[0].KPCR, 0x200},
		{truth.Processes[1].EPROCESS, 0xA40},
	}
	values := []uint64{
		0, 1, 4, ^uint64(0), 1 << 63, 0x7FFE_0000, 0xFFFF_8000_0000_0000,
		uint64(truth.SystemProcess), uint64(truth.KernelBase), uint64(truth.KDBG), uint64(truth.PsLoadedModuleList),
		uint64(truth.DirectoryTableBase), uint64(truth.Processors[0].KPRCB), uint64(guest.KUSERAddress),
	}
	for range n {
		if rng.IntN(6) == 0 { // an entry of the System process's page tables
			at, ok := im.EntryAddr(truth.KDBG, 1+rng.IntN(4))
			if !ok {
				at = truth.DirectoryTableBase
			}
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], values[rng.IntN(len(values))]|uint64(rng.IntN(0x200)))
			if err := im.WritePhys(at.PFN().Addr()+phys.Addr(8*rng.IntN(512)), b[:]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		p := places[rng.IntN(len(places))]
		v := values[rng.IntN(len(values))]
		if rng.IntN(3) == 0 {
			v = rng.Uint64()
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		// A page that an earlier scribble unmapped is scribbled over already.
		_ = im.WriteVirt(p.at+phys.VirtAddr(rng.Uint64N(p.size)&^3), b[:])
	}
}
