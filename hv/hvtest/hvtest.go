// Package hvtest holds what every source of guest memory must do, as a suite of
// tests that each of them runs.
package hvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// Options says what is known of the guest beforehand.
type Options struct {
	// Want is the same memory by a way that shares no code with the one under
	// test. The guest must stand still.
	Want phys.Reader

	// Budget is how many bytes the suite may read at most where it samples, for
	// slow mechanisms; 0 is 256 MiB.
	Budget uint64
}

// prompt is how soon a read must return after its context ended. It is a bound
// on hanging, not a measure of speed.
const prompt = 20 * time.Second

// TestMemory runs the suite. open is called for each part of it and must return
// the memory of the same guest each time, which the suite closes.
func TestMemory(t *testing.T, open func(t *testing.T) hv.Memory, o Options) {
	t.Helper()
	if o.Budget == 0 {
		o.Budget = 256 << 20
	}
	parts := []struct {
		name string
		run  func(*testing.T, hv.Memory, Options)
	}{
		{"map", testMap},
		{"content", testContent},
		{"unaligned", testUnaligned},
		{"outside", testOutside},
		{"empty", testEmpty},
		{"populated", testPopulated},
		{"concurrent", testConcurrent},
		{"cancelled", testCancelled},
		{"batch", testBatch},
		{"closed", testClosed},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			m := open(t)
			defer func() {
				if err := m.Close(); err != nil {
					t.Errorf("Close() failed: %v", err)
				}
			}()
			p.run(t, m, o)
		})
	}
}

// testMap: the RAM map is in form, and there is something in it.
func testMap(t *testing.T, m hv.Memory, _ Options) {
	ram := m.RAM()
	if len(ram) == 0 {
		t.Fatal("RAM() is empty")
	}
	if m.Mechanism() == "" {
		t.Error("Mechanism() is empty")
	}
	for i, r := range ram {
		if !r.Valid() {
			t.Errorf("run %d of RAM() is %v: not valid", i, r)
		}
		if i > 0 && ram[i-1].End() >= r.Base {
			t.Errorf("runs %d and %d of RAM() are out of order or touch: %v, %v", i-1, i, ram[i-1], r)
		}
	}
}

// testContent: every page is what it should be, as far as the budget goes.
func testContent(t *testing.T, m hv.Memory, o Options) {
	const step = 1 << 20
	got, want := make([]byte, step), make([]byte, step)
	total := m.RAM().Pages() << phys.PageShift
	stride := uint64(step) * max(1, total/o.Budget)
	for _, r := range m.RAM() {
		for off := uint64(0); off < r.Size(); off += stride {
			n := min(step, r.Size()-off)
			at := r.Base.Addr() + phys.Addr(off)
			same(t, m, o.Want, got[:n], want[:n], at)
		}
	}
}

// same compares the memory at at by both ways. The buffer is made dirty first,
// so that a read that fills too little shows.
func same(t *testing.T, m, ref phys.Reader, got, want []byte, at phys.Addr) {
	t.Helper()
	for i := range got {
		got[i] = 0xa5
	}
	if err := m.ReadPhys(t.Context(), got, at); err != nil {
		t.Fatalf("ReadPhys(%d bytes at %#x) failed: %v", len(got), uint64(at), err)
	}
	if err := ref.ReadPhys(t.Context(), want, at); err != nil {
		t.Fatalf("reference read of %d bytes at %#x failed: %v", len(want), uint64(at), err)
	}
	if !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		t.Fatalf("ReadPhys(%d bytes at %#x): byte %d = %#x; want %#x", len(got), uint64(at), i, got[i], want[i])
	}
}

// testUnaligned: reads of any length from any address.
func testUnaligned(t *testing.T, m hv.Memory, o Options) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, r := range m.RAM() {
		last := r.End().Addr()
		reads := []struct {
			at phys.Addr
			n  int
		}{
			{r.Base.Addr(), 1},
			{r.Base.Addr() + 1, phys.PageSize},
			{last - 1, 1},
			{last - phys.PageSize + 7, phys.PageSize - 7},
		}
		for range 16 {
			n := 1 + rnd.Uint64N(min(r.Size(), 3*phys.PageSize))
			reads = append(reads, struct {
				at phys.Addr
				n  int
			}{r.Base.Addr() + phys.Addr(rnd.Uint64N(r.Size()-n+1)), int(n)})
		}
		for _, rd := range reads {
			if n := uint64(last - rd.at); uint64(rd.n) > n {
				rd.n = int(n)
			}
			same(t, m, o.Want, make([]byte, rd.n), make([]byte, rd.n), rd.at)
		}
	}
}

// testOutside: whatever isn't wholly RAM is refused.
func testOutside(t *testing.T, m hv.Memory, _ Options) {
	ram := m.RAM()
	end := ram.End().Addr()
	reads := []struct {
		at phys.Addr
		n  int
	}{
		{end, 1},
		{end - 1, 2},
		{phys.MaxAddr - 1, 1},
		{phys.MaxAddr - 1, 2},
		{^phys.Addr(0), 2},
	}
	for i, r := range ram {
		reads = append(reads, struct {
			at phys.Addr
			n  int
		}{r.End().Addr() - 8, 16})
		if i > 0 || r.Base > 0 {
			reads = append(reads, struct {
				at phys.Addr
				n  int
			}{r.Base.Addr() - 8, 16})
		}
		if i > 0 { // across the whole hole
			gap := uint64(r.Base.Addr() - ram[i-1].End().Addr())
			if gap < 64<<20 {
				reads = append(reads, struct {
					at phys.Addr
					n  int
				}{ram[i-1].End().Addr() - 1, int(gap) + 2})
			}
		}
	}
	for _, r := range reads {
		err := m.ReadPhys(t.Context(), make([]byte, r.n), r.at)
		if !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("ReadPhys(%d bytes at %#x) = %v; want %v", r.n, uint64(r.at), err, phys.ErrNotRAM)
		}
	}
}

// testEmpty: reading nothing works wherever it is.
func testEmpty(t *testing.T, m hv.Memory, _ Options) {
	for _, at := range []phys.Addr{0, m.RAM()[0].Base.Addr(), m.RAM().End().Addr(), phys.MaxAddr} {
		if err := m.ReadPhys(t.Context(), nil, at); err != nil {
			t.Errorf("ReadPhys(0 bytes at %#x) = %v; want nil", uint64(at), err)
		}
	}
}

// testPopulated: what isn't in the set is RAM and zero.
func testPopulated(t *testing.T, m hv.Memory, o Options) {
	set, known, err := m.Populated(t.Context())
	if err != nil {
		t.Fatalf("Populated() failed: %v", err)
	}
	if out := set.Minus(m.RAM()); len(out) != 0 {
		t.Errorf("Populated() has %v, which is not RAM", out)
	}
	rest := m.RAM().Minus(set)
	if !known && len(rest) != 0 {
		t.Errorf("Populated() isn't known, but leaves out %v", rest)
	}
	if known {
		t.Logf("%d of %d pages are populated", set.Pages(), m.RAM().Pages())
	}
	buf := make([]byte, 1<<20)
	stride := uint64(len(buf)) * max(1, rest.Pages()<<phys.PageShift/o.Budget)
	for _, r := range rest {
		for off := uint64(0); off < r.Size(); off += stride {
			b := buf[:min(uint64(len(buf)), r.Size()-off)]
			at := r.Base.Addr() + phys.Addr(off)
			if err := o.Want.ReadPhys(t.Context(), b, at); err != nil {
				t.Fatalf("reference read of %d bytes at %#x failed: %v", len(b), uint64(at), err)
			}
			if i := nonZero(b); i >= 0 {
				t.Fatalf("Populated() leaves out %#x, which holds %#x", uint64(at)+uint64(i), b[i])
			}
		}
	}
}

func nonZero(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}

// testConcurrent: many readers at once get the right bytes.
func testConcurrent(t *testing.T, m hv.Memory, o Options) {
	var g errgroup.Group
	ram := m.RAM()
	for w := range 8 {
		g.Go(func() error {
			rnd := rand.New(rand.NewPCG(uint64(w), 3))
			for range 24 {
				r := ram[rnd.IntN(len(ram))]
				n := 1 + rnd.Uint64N(min(r.Size(), 256<<10))
				at := r.Base.Addr() + phys.Addr(rnd.Uint64N(r.Size()-n+1))
				got, want := make([]byte, n), make([]byte, n)
				if err := m.ReadPhys(t.Context(), got, at); err != nil {
					return err
				}
				if err := o.Want.ReadPhys(t.Context(), want, at); err != nil {
					return err
				}
				if !bytes.Equal(got, want) {
					return fmt.Errorf("%d bytes at %#x differ", n, uint64(at))
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Errorf("concurrent reads: %v", err)
	}
}

// testCancelled: a context that has ended fails a read, one that ends meanwhile
// makes it return, and neither spoils the memory for others.
func testCancelled(t *testing.T, m hv.Memory, o Options) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := m.RAM()[0]
	buf := make([]byte, phys.PageSize)
	if err := m.ReadPhys(ctx, buf, r.Base.Addr()); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadPhys with an ended context = %v; want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		big := make([]byte, 1<<20)
		close(started)
		for {
			for _, r := range m.RAM() {
				for off := uint64(0); off < r.Size(); off += uint64(len(big)) {
					b := big[:min(uint64(len(big)), r.Size()-off)]
					if err := m.ReadPhys(ctx, b, r.Base.Addr()+phys.Addr(off)); err != nil {
						done <- err
						return
					}
				}
			}
		}
	}()
	<-started
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ReadPhys with a context that ended meanwhile = %v; want %v", err, context.Canceled)
		}
	case <-time.After(prompt):
		t.Fatalf("ReadPhys goes on %v after its context ended", prompt)
	}
	same(t, m, o.Want, buf, make([]byte, len(buf)), r.Base.Addr())
}

// testBatch: a row of reads gives what single ones give, and is vouched for.
func testBatch(t *testing.T, m hv.Memory, o Options) {
	cost := hv.ReadCostOf(m)
	if cost.Dear() && (cost.Most < phys.PageSize || cost.Most%phys.PageSize != 0 || cost.Flight < 1) {
		t.Errorf("ReadCost() = %+v: no call can be made of that", cost)
	}
	b := hv.BatchOf(m)
	if err := b.Vouch(t.Context()); err != nil {
		t.Errorf("Vouch() of nothing that was read = %v", err)
	}
	got, want := make([]byte, 3*phys.PageSize), make([]byte, 3*phys.PageSize)
	for _, r := range m.RAM() {
		n := min(r.Size(), uint64(len(got)))
		same(t, b, o.Want, got[:n], want[:n], r.Base.Addr())
	}
	if err := b.Vouch(t.Context()); err != nil {
		t.Errorf("Vouch() = %v", err)
	}
	if err := b.ReadPhys(t.Context(), got, m.RAM().End().Addr()); !errors.Is(err, phys.ErrNotRAM) {
		t.Errorf("ReadPhys of a batch after the end of RAM = %v; want %v", err, phys.ErrNotRAM)
	}
}

// testClosed: nothing can be read after Close, which may be called again.
func testClosed(t *testing.T, m hv.Memory, _ Options) {
	if err := m.Close(); err != nil {
		t.Fatalf("Close() failed: %v", err)
	}
	if err := m.ReadPhys(t.Context(), make([]byte, 1), m.RAM()[0].Base.Addr()); err == nil {
		t.Error("ReadPhys after Close succeeded")
	}
	if _, _, err := m.Populated(t.Context()); err == nil {
		t.Error("Populated after Close succeeded")
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close() failed: %v", err)
	}
}
