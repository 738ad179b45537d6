package guest

import (
	"context"
	"errors"
	"math/bits"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// marked is memory of zeros but for pages that begin with 1. read may be called before
// each read.
type marked struct {
	pages     map[phys.PFN]bool
	populated phys.Runs // nil for not known
	read      func(ctx context.Context, at phys.Addr, n int) error
	bytes     atomic.Int64
}

func (m *marked) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if m.read != nil {
		if err := m.read(ctx, at, len(p)); err != nil {
			return err
		}
	}
	m.bytes.Add(int64(len(p)))
	clear(p)
	for pfn := range m.pages {
		if pfn.Addr() >= at && pfn.Addr() < at+phys.Addr(len(p)) {
			p[pfn.Addr()-at] = 1
		}
	}
	return nil
}

func (m *marked) Populated(context.Context) (phys.Runs, bool, error) {
	return m.populated, m.populated != nil, nil
}

func begins1(page []byte, _ phys.Addr) bool { return page[0] == 1 }

const blockPages = scanBlock >> phys.PageShift

// Pages are found in the order of their addresses, whatever the host's processors do.
func TestScanOrder(t *testing.T) {
	area := phys.Runs{{Base: 3, Pages: 5*blockPages + 7}, {Base: 9 * blockPages, Pages: 1}, {Base: 20 * blockPages, Pages: 40 * blockPages}}
	want := []phys.Addr{3 << 12, 4 << 12, (blockPages + 2) << 12, (9 * blockPages) << 12, (59 * blockPages) << 12}
	m := &marked{pages: map[phys.PFN]bool{2: true, 9*blockPages + 1: true}} // outside of the area
	for _, at := range want {
		m.pages[at.PFN()] = true
	}
	m.read = func(_ context.Context, at phys.Addr, _ int) error {
		if at.PFN() < blockPages { // the first is the slowest
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}
	var got []phys.Addr
	var kept watchedReader
	var done, total uint64
	scan := ramScan{mem: m, area: area, like: begins1, scanned: func(d, n uint64) {
		if d <= done {
			t.Errorf("%d bytes are done after %d", d, done)
		}
		done, total = d, n
	}}
	err := scan.each(t.Context(), &kept, func(at phys.Addr) bool {
		got = append(got, at)
		return true
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("each = %v, found (-want +got):\n%s", err, diff)
	}
	if size := area.Pages() << phys.PageShift; done != size || total != size || m.bytes.Load() != int64(size) {
		t.Errorf("%d of %d bytes done, %d read; want %d", done, total, m.bytes.Load(), size)
	}
	// The first that is taken ends it, though others were found meanwhile.
	got = nil
	err = scan.each(t.Context(), &kept, func(at phys.Addr) bool {
		got = append(got, at)
		return len(got) < 2
	})
	if diff := cmp.Diff(want[:2], got); err != nil || diff != "" {
		t.Errorf("ended after 2: each = %v, found (-want +got):\n%s", err, diff)
	}
}

// What can't be read is passed over and told: pages among others, or all of a source
// that fails.
func TestScanFailures(t *testing.T) {
	bad := errors.New("no such memory")
	const hole = blockPages + 1
	m := &marked{pages: map[phys.PFN]bool{0: true, blockPages: true, hole: true, hole + 1: true, 2 * blockPages: true, 3 * blockPages: true}}
	m.read = func(_ context.Context, at phys.Addr, n int) error {
		r, _ := phys.RunOf(at, uint64(n))
		switch {
		case r.Base == 2*blockPages:
			return bad
		case r.Base <= hole && hole < r.End():
			return &phys.AccessError{At: at, Len: n, Err: bad}
		}
		return nil
	}
	var told watchedReader
	var got []phys.PFN
	scan := ramScan{mem: m, area: phys.Runs{{Base: 0, Pages: 4 * blockPages}}, like: begins1}
	err := scan.each(t.Context(), &told, func(at phys.Addr) bool {
		got = append(got, at.PFN())
		return true
	})
	reads := bits.Len(blockPages) + 1 // of the block with the hole and its halves down to the page, and of the other
	if diff := cmp.Diff([]phys.PFN{0, blockPages, hole + 1, 3 * blockPages}, got); err != nil || diff != "" || told.failed != reads || !errors.Is(told.err, bad) {
		t.Errorf("each = %v, %d failures, the first %v, found (-want +got):\n%s", err, told.failed, told.err, diff)
	}
}

// The end of the context ends a scan at once, in the middle of a read too, and nothing
// goes on reading.
func TestScanEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := &marked{read: func(ctx context.Context, at phys.Addr, _ int) error {
		if at.PFN() >= 4*blockPages {
			cancel()
			<-ctx.Done() // as a read of a daemon that hangs
			return ctx.Err()
		}
		return nil
	}}
	scan := ramScan{mem: m, area: phys.Runs{{Base: 0, Pages: 1 << 30}}, like: begins1}
	var kept watchedReader
	err := scan.each(ctx, &kept, func(phys.Addr) bool { return true })
	if !errors.Is(err, context.Canceled) || kept.err != nil {
		t.Errorf("each = %v, told of %v; want context.Canceled, and to be told of nothing", err, kept.err)
	}
	before := m.bytes.Load()
	time.Sleep(5 * time.Millisecond)
	if after := m.bytes.Load(); after != before || after > 64*scanBlock {
		t.Errorf("%d bytes were read when it returned, %d later; want no more than were under way", before, after)
	}
}

// Pages that are known to be zero are not read.
func TestScanOfPopulated(t *testing.T) {
	ram := phys.Runs{{Base: 0, Pages: 1 << 28}} // 1 TiB
	m := &marked{populated: phys.Runs{{Base: 8192, Pages: 2 * blockPages}, {Base: 1 << 30, Pages: 1}}}
	s, err := Discover(t.Context(), m, ram, nil)
	if s != nil || !errors.Is(err, ErrNotWindows) {
		t.Fatalf("Discover = %v, %v; want ErrNotWindows", s, err)
	}
	if limit := int64(len(Archs())*selfMapFirst + 4<<20); m.bytes.Load() > limit {
		t.Errorf("%d bytes were read; want low memory and what is populated, for each architecture, at most %d", m.bytes.Load(), limit)
	}
	if got := populated(t.Context(), m, ram); cmp.Diff(phys.Runs{{Base: 8192, Pages: 2 * blockPages}}, got) != "" {
		t.Errorf("populated = %v", got)
	}
}

// How far the last resort is, is told; of what is looked at before, nothing.
func TestScannedIsTold(t *testing.T) {
	ram := phys.Runs{{Base: 0, Pages: (selfMapFirst + 64<<20) >> phys.PageShift}}
	var done, total uint64
	o := Options{Scanned: func(d, n uint64) { done, total = d, n }}
	if _, err := o.Discover(t.Context(), &marked{}, ram, nil); !errors.Is(err, ErrNotWindows) {
		t.Fatal(err)
	}
	if done != 64<<20 || total != 64<<20 {
		t.Errorf("%d of %d bytes were told of; want 64 MiB of 64 MiB", done, total)
	}
}
