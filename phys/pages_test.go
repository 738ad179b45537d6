package phys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var errBroken = errors.New("broken")

// holed is memory in which each byte is the low byte of its page's number, and
// some pages can't be read.
type holed struct {
	bad   map[PFN]error
	reads int
	each  func() // called at each read, nil for nothing
}

func (h *holed) ReadPhys(_ context.Context, p []byte, at Addr) error {
	h.reads++
	if h.each != nil {
		h.each()
	}
	for off := 0; off < len(p); off += PageSize {
		pfn := at.PFN() + PFN(off/PageSize)
		if err := h.bad[pfn]; err != nil {
			return err
		}
		for i := range PageSize {
			p[off+i] = byte(pfn)
		}
	}
	return nil
}

func access(err error) error { return &AccessError{At: 1, Len: 2, Err: err} }

// TestReadPages: what can be read is read, page by page if need be, and what
// can't is told with its reason.
func TestReadPages(t *testing.T) {
	fatal := errors.New("fatal")
	for _, tt := range []struct {
		name    string
		bad     map[PFN]error
		want    []string // what was read and lost, in order
		wantErr error
	}{
		{"whole", nil, []string{"read 8+8"}, nil},
		{"one page", map[PFN]error{13: access(errBroken)}, []string{"read 8+4", "read 12+1", "lost 13: broken", "read 14+2"}, nil},
		{"not RAM", map[PFN]error{8: ErrNotRAM}, []string{"lost 8: not guest memory", "read 9+1", "read 10+2", "read 12+4"}, nil},
		{"all", allPages(8, 16, access(errBroken)), lostAll(8, 16), nil},
		{"the source", map[PFN]error{11: errBroken}, nil, errBroken},
		{"the source, at last", map[PFN]error{9: access(errBroken), 10: errBroken}, []string{"read 8+1", "lost 9: broken"}, errBroken},
		{"lost says no", map[PFN]error{9: access(fatal)}, []string{"read 8+1"}, fatal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Run{8, 8}
			b := make([]byte, r.Size())
			var got []string
			err := ReadPages(t.Context(), &holed{bad: tt.bad}, r, b,
				func(r Run, p []byte) {
					if uint64(len(p)) != r.Size() || !bytes.Equal(p[:1], []byte{byte(r.Base)}) {
						t.Errorf("read of %v has %d bytes, the first %d", r, len(p), p[0])
					}
					got = append(got, fmt.Sprintf("read %d+%d", r.Base, r.Pages))
				},
				func(p PFN, page []byte, err error) error {
					if errors.Is(err, fatal) {
						return err
					}
					if len(page) != PageSize || &page[0] != &b[(p-r.Base)*PageSize] {
						t.Errorf("lost page %d has the wrong bytes", p)
					}
					got = append(got, fmt.Sprintf("lost %d: %v", p, GapReason(err)))
					return nil
				})
			if !errors.Is(err, tt.wantErr) || (err == nil) != (tt.wantErr == nil) {
				t.Errorf("error is %v; want %v", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func allPages(from, to PFN, err error) map[PFN]error {
	m := map[PFN]error{}
	for p := from; p < to; p++ {
		m[p] = err
	}
	return m
}

func lostAll(from, to PFN) []string {
	var out []string
	for p := from; p < to; p++ {
		out = append(out, fmt.Sprintf("lost %d: broken", p))
	}
	return out
}

// TestReadPagesEnds: an end of the context is its cause, and not a gap.
func TestReadPagesEnds(t *testing.T) {
	why := errors.New("time is up")
	ctx, cancel := context.WithCancelCause(t.Context())
	m := &holed{bad: map[PFN]error{3: access(context.Canceled)}, each: func() { cancel(why) }}
	r := Run{0, 8}
	err := ReadPages(ctx, m, r, make([]byte, r.Size()),
		func(Run, []byte) { t.Error("something was read") },
		func(PFN, []byte, error) error { t.Error("something was lost"); return nil })
	if !errors.Is(err, why) || m.reads != 1 {
		t.Errorf("error is %v after %d reads; want %v after 1", err, m.reads, why)
	}
}

// TestDeadStretch: only pieces in a row count, and only losses that speak
// against the source.
func TestDeadStretch(t *testing.T) {
	d := DeadStretch{Limit: 3}
	for i, tt := range []struct {
		read, lost uint64
		want       bool
	}{
		{0, 1, false},
		{0, 5, false},
		{1, 5, false}, // one page that was read: from the start again
		{0, 1, false},
		{0, 0, false}, // nothing was to be read
		{0, 1, false},
		{0, 1, true},
		{0, 1, true},
	} {
		if got := d.Add(tt.read, tt.lost); got != tt.want {
			t.Errorf("piece %d: Add(%d, %d) = %v; want %v", i, tt.read, tt.lost, got, tt.want)
		}
	}
}

func TestRegisterAccessors(t *testing.T) {
	// PCID 0x123, LAM_U48 (bit 62) and the bit that keeps the TLB (63).
	r := Registers{RIP: 0xfffff80312345678, RSP: 0xffffe000deadbee0, CR3: 1<<63 | 1<<62 | 0x1ad123}
	if got, want := r.ProgramCounter(), VirtAddr(0xfffff80312345678); got != want {
		t.Errorf("ProgramCounter() = %#x; want %#x", got, want)
	}
	if got, want := r.StackPointer(), VirtAddr(0xffffe000deadbee0); got != want {
		t.Errorf("StackPointer() = %#x; want %#x", got, want)
	}
	if got, want := r.PageTableRoot(), Addr(0x1ad000); got != want {
		t.Errorf("PageTableRoot() = %#x; want %#x", got, want)
	}
}
