package exclude

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// va is the address of a page of the kernel half.
func va(page uint64) uint64 { return kernelHalf + page<<phys.PageShift }

func physical(address, pages uint64) Request {
	return Request{By: "a.sys", Reason: Advertised, Flags: FlagPhysical, Address: address, Pages: pages}
}

func virtual(address, pages uint64) Request {
	return Request{By: "a.sys", Reason: Advertised, Flags: FlagVirtual, Address: address, Pages: pages}
}

// with returns r with other flags and code.
func with(r Request, flags, code uint32) Request {
	r.Flags, r.BugCheckCode = flags, code
	return r
}

// One request at a time.
func TestPlanOneRequest(t *testing.T) {
	run := func(base phys.PFN, pages uint64) phys.Runs { return phys.Runs{{Base: base, Pages: pages}} }
	honoured := func(exclude phys.Runs, e Entry) Plan { return Plan{Exclude: exclude, Entries: []Entry{e}} }
	refused := func(status NTStatus, at uint64, reason string) Plan {
		return Plan{Refused: []Refusal{{Status: status, At: at, Reason: reason, Requests: 1}}}
	}
	moot := func(status NTStatus, at uint64, reason string) Plan {
		p := refused(status, at, reason)
		p.Refused[0].Moot = true
		return p
	}
	ignored := func(why string) Plan { return Plan{Ignored: []Ignored{{Why: why}}} }
	const (
		denied  = 0xc0000022
		address = 0xc0000141
		outside = "outside the guest's RAM"
		noRange = "not a canonical virtual range"
		noPhys  = "outside the guest-physical address space"
	)
	tests := []struct {
		name string
		r    Request
		want Plan // without the requests
	}{
		{"physical", physical(0x110000, 3), honoured(run(0x110, 3), Entry{Excluded: 3})},
		{"physical, unaligned", physical(0x110fff, 1), honoured(run(0x110, 1), Entry{Excluded: 1})},
		{"physical, unaligned, two pages", physical(0x110fff, 2), honoured(run(0x110, 2), Entry{Excluded: 2})},
		{"physical, all of a piece of RAM", physical(0x400000, 0x100), honoured(run(0x400, 0x100), Entry{Excluded: 0x100})},
		{"physical, one page too many", physical(0x400000, 0x101), refused(address, 0x500000, outside)},
		{"physical, before RAM", physical(0xff000, 2), refused(address, 0xff000, outside)},
		{"physical, over a hole", physical(0x1f0000, 0x300), refused(address, 0x200000, outside)},
		{"physical, no RAM", physical(0x300000, 1), moot(address, 0x300000, outside)},
		{"physical, everything", physical(0, 1<<52>>12), refused(address, 0, outside)},
		{"physical, 2^64-1 pages", physical(0x110000, ^uint64(0)), refused(address, 0x110000, noPhys)},
		{"physical, wraps to a good page", physical(0x110000, 1<<52), refused(address, 0x110000, noPhys)},
		{"physical, above 52 bits", physical(1<<52, 1), moot(address, 1<<52, noPhys)},
		{"physical, highest address", physical(^uint64(0), 1), moot(address, ^uint64(0), noPhys)},
		{"physical, protected", physical(0x180000, 1), refused(denied, 0x180000, "protected: KDBG")},
		{"physical, around a protected page", physical(0x17f000, 3), refused(denied, 0x180000, "protected: KDBG")},
		{"physical, ends at a protected page", physical(0x17e000, 2), honoured(run(0x17e, 2), Entry{Excluded: 2})},
		{"physical, inside protected pages", physical(0x1a2000, 1), refused(denied, 0x1a2000, "protected: page table")},
		{"physical, after protected pages", physical(0x1a4000, 1), honoured(run(0x1a4, 1), Entry{Excluded: 1})},
		{"physical, all RAM", physical(0x100000, 0x100), refused(denied, 0x180000, "protected: KDBG")},

		{"virtual", virtual(va(1), 2), honoured(run(0x111, 2), Entry{Excluded: 2})},
		{"virtual, unaligned", virtual(va(1)+0xfff, 1), honoured(run(0x111, 1), Entry{Excluded: 1})},
		{
			"virtual, over the end of a mapping", virtual(va(15), 3),
			honoured(phys.Runs{{Base: 0x11f, Pages: 1}, {Base: 0x408, Pages: 2}}, Entry{Excluded: 3}),
		},
		{"virtual, inside a large page", virtual(va(20), 5), honoured(run(0x40c, 5), Entry{Excluded: 5})},
		{"virtual, not present", virtual(va(40), 4), honoured(nil, Entry{NotPresent: 4})},
		{"virtual, half present", virtual(va(31), 4), honoured(run(0x417, 1), Entry{Excluded: 1, NotPresent: 3})},
		{"virtual, protected", virtual(va(64), 3), refused(denied, va(66), "protected: KDBG")},
		{"virtual, beside a protected page", virtual(va(64), 2), honoured(run(0x17e, 2), Entry{Excluded: 2})},
		{"virtual, behind a protected page", virtual(va(67), 1), honoured(run(0x181, 1), Entry{Excluded: 1})},
		{"virtual, no RAM", virtual(va(67), 2), refused(address, va(68), outside)},
		{"virtual, all of the half", virtual(kernelHalf, 1<<35), refused(denied, va(66), "protected: KDBG")},
		{"virtual, 2^64-1 pages", virtual(kernelHalf, ^uint64(0)), refused(address, kernelHalf, noRange)},
		{"virtual, 2^52 pages", virtual(0, 1<<52), refused(address, 0, noRange)},
		{"virtual, wraps to a good page", virtual(va(1), 1<<52), refused(address, va(1), noRange)},
		{"virtual, wraps by pages", virtual(va(1), -(va(0) >> 12)), refused(address, va(1), noRange)},
		{"virtual, past the last page", virtual(^uint64(0), 2), refused(address, ^uint64(0), noRange)},
		{"virtual, the last page", virtual(^uint64(0), 1), honoured(nil, Entry{NotPresent: 1})},
		{"virtual, not canonical", virtual(0x8000_0000_0000, 1), moot(address, 0x8000_0000_0000, noRange)},
		{"virtual, into the gap", virtual(0x7fff_ffff_f000, 2), refused(address, 0x7fff_ffff_f000, noRange)},
		{"virtual, over the gap", virtual(0x7fff_ffff_f000, 0xffff0_0000_0002), refused(address, 0x7fff_ffff_f000, noRange)},
		{"virtual, no RAM, alone", virtual(va(68), 1), moot(address, va(68), outside)},
		{"virtual, in the gap, up to the other half", virtual(0xffff_7fff_ffff_f000, 1), moot(address, 0xffff_7fff_ffff_f000, noRange)},
		{"virtual, in the gap and beyond", virtual(0xffff_7fff_ffff_f000, 2), refused(address, 0xffff_7fff_ffff_f000, noRange)},
		{"virtual, nobody knows where", virtual(va(122), 2), honoured(nil, Entry{Unresolved: 2, UnresolvedAt: phys.VirtAddr(va(122))})},
		{
			"virtual, in part nobody knows where", virtual(va(108), 20),
			honoured(run(0x11c, 4), Entry{Excluded: 4, NotPresent: 8 + 4, Unresolved: 4, UnresolvedAt: phys.VirtAddr(va(120))}),
		},
		{"virtual, from the middle of them", virtual(va(123), 2), honoured(nil, Entry{NotPresent: 1, Unresolved: 1, UnresolvedAt: phys.VirtAddr(va(123))})},
		{
			"virtual, unreadable table", virtual(va(79), 2),
			refused(0xc000003e, va(80), "page tables can't be read: page table is gone"),
		},

		{"no pages", physical(0x110000, 0), ignored("asks for no pages")},
		{"no pages, wrong flags", with(physical(0x110000, 0), 0x1000, 0), ignored("asks for no pages")},
		{"both kinds", with(physical(0x110000, 1), 3, 0), refused(0xc000000d, 0x110000, "must be either virtual or physical")},
		{"neither kind", with(physical(0x110000, 1), 0x80000010, 0), refused(0xc000000d, 0x110000, "must be either virtual or physical")},
		{"unknown flag", with(physical(0x110000, 1), 0x1002, 0), refused(0xc00000f2, 0x110000, "unknown flags")},
		{"known flags", with(physical(0x110000, 1), 0x80000ff2, 0), honoured(run(0x110, 1), Entry{Excluded: 1})},
		{"for this dump", with(physical(0x110000, 1), 2, 0x161), honoured(run(0x110, 1), Entry{Excluded: 1})},
		{"for another dump", with(physical(0x110000, 1), 2, 0xe2), ignored("is for bug check 0xe2")},
		{"wrong, for another dump", with(physical(0x110000, 1), 3, 0xe2), refused(0xc000000d, 0x110000, "must be either virtual or physical")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := smallGuest()
			in.Requests = []Request{tt.r}
			got, err := NewPlan(t.Context(), in)
			if err != nil {
				t.Fatalf("NewPlan failed: %v", err)
			}
			checkPlan(t, in, got)
			for i := range tt.want.Entries {
				tt.want.Entries[i].Request = tt.r
			}
			for i := range tt.want.Refused {
				tt.want.Refused[i].Request = tt.r
			}
			for i := range tt.want.Ignored {
				tt.want.Ignored[i].Request = tt.r
			}
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Errorf("plan for %v (-want +got):\n%s", tt.r, diff)
			}
		})
	}
}

// A wrong request leaves its neighbours alone, and pages count once, for the
// first who asks.
func TestPlanManyRequests(t *testing.T) {
	in := smallGuest()
	wrong := with(physical(0x110000, 1), 0, 0)
	requests := []Request{
		virtual(va(4), 4),        // 0x114..0x117
		wrong,                    //
		virtual(va(98), 8),       // 0x112..0x119 by another address
		physical(0x180000, 1),    // protected
		physical(0x116000, 8),    // 0x116..0x11d
		physical(0x300000, 1),    // no RAM
		virtual(va(60), 1<<34),   // runs into a protected page
		virtual(va(0), 1),        // 0x110
		virtual(va(64), 1),       // 0x17e
		physical(0x117000, 1),    // all of it asked for already
		virtual(va(0), 32),       // 0x110..0x11f and 0x408..0x417
		virtual(va(78), 2),       // nothing there
		virtual(va(79), 20),      // runs into an unreadable table
		virtual(va(96), 16),      // 0x110..0x11f again
		physical(0x400000, 0x10), // 0x400..0x40f
	}
	in.Requests = requests
	want := &Plan{
		Exclude: phys.Runs{{Base: 0x110, Pages: 16}, {Base: 0x17e, Pages: 1}, {Base: 0x400, Pages: 0x18}},
		Entries: []Entry{
			{requests[0], 4, 0, 0, 0, 0},
			{requests[2], 4, 4, 0, 0, 0},
			{requests[4], 4, 4, 0, 0, 0},
			{requests[7], 1, 0, 0, 0, 0},
			{requests[8], 1, 0, 0, 0, 0},
			{requests[9], 0, 1, 0, 0, 0},
			{requests[10], 3 + 16, 13, 0, 0, 0},
			{requests[11], 0, 0, 2, 0, 0},
			{requests[13], 0, 16, 0, 0, 0},
			{requests[14], 8, 8, 0, 0, 0},
		},
		Refused: []Refusal{
			{wrong, 0xc000000d, "must be either virtual or physical", 0x110000, 1, false},
			{requests[3], 0xc0000022, "protected: KDBG", 0x180000, 1, false},
			{requests[5], 0xc0000141, "outside the guest's RAM", 0x300000, 1, true},
			{requests[6], 0xc0000022, "protected: KDBG", va(66), 1, false},
			{requests[12], 0xc000003e, "page tables can't be read: page table is gone", va(80), 1, false},
		},
	}
	got, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatalf("NewPlan failed: %v", err)
	}
	checkPlan(t, in, got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// Frames that follow each other on both sides of a hole are no mapping of it.
func TestPlanHoleBetweenNeighbours(t *testing.T) {
	in := smallGuest()
	in.Translator = &space{regions: []region{
		{page: 0, pages: 2, pfn: 0x110, size: 1}, {page: 4, pages: 2, pfn: 0x112, size: 1},
	}}
	in.Requests = []Request{virtual(va(0), 3), virtual(va(4), 1)}
	want := &Plan{
		Exclude: phys.Runs{{Base: 0x110, Pages: 3}},
		Entries: []Entry{{in.Requests[0], 2, 0, 1, 0, 0}, {in.Requests[1], 1, 0, 0, 0, 0}},
	}
	got, err := NewPlan(t.Context(), in)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("NewPlan failed with %v, or (-want +got):\n%s", err, diff)
	}
}

func TestPlanKeepAdvertised(t *testing.T) {
	in := smallGuest()
	in.KeepAdvertised = true
	own := physical(0x120000, 1)
	own.By, own.Reason = FlagName, Operator
	wrong := with(physical(0x110000, 1), 0, 0)
	in.Requests = []Request{physical(0x110000, 1), own, wrong, virtual(va(1), 1)}
	want := &Plan{
		Exclude: phys.Runs{{Base: 0x120, Pages: 1}},
		Entries: []Entry{{own, 1, 0, 0, 0, 0}},
		Refused: []Refusal{{wrong, 0xc000000d, "must be either virtual or physical", 0x110000, 1, true}},
		Ignored: []Ignored{
			{physical(0x110000, 1), "advertised ranges are kept", true},
			{virtual(va(1), 1), "advertised ranges are kept", true},
		},
	}
	got, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatalf("NewPlan failed: %v", err)
	}
	checkPlan(t, in, got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

func TestPlanLimit(t *testing.T) {
	own := physical(0x400000, 0x80)
	own.By = FlagName
	half := []Request{physical(0x100000, 0x80), physical(0x100000, 0x80), own} // 0x100 of 0x200 pages
	over := append(half[:3:3], physical(0x480000, 2))
	tests := []struct {
		name     string
		requests []Request
		limit    uint64
		want     *TooManyError
	}{
		{"half, by default", half, 0, nil},
		{"above half, by default", over, 0, &TooManyError{0x102, 0x100, 0x200, "a.sys", 0x82}},
		{"above half, allowed", over, 0x102, nil},
		{"one page above what is allowed", over, 0x101, &TooManyError{0x102, 0x101, 0x200, "a.sys", 0x82}},
		{"less allowed", half[2:], 0x7f, &TooManyError{0x80, 0x7f, 0x200, "--exclude", 0x80}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := smallGuest()
			in.Requests, in.Limit = tt.requests, tt.limit
			plan, err := NewPlan(t.Context(), in)
			if plan == nil {
				t.Fatalf("NewPlan gave no plan, but %v", err)
			}
			checkPlan(t, in, plan)
			got, _ := errors.AsType[*TooManyError](err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("NewPlan failed with %v (-want +got):\n%s", err, diff)
			}
			if errors.Is(err, ErrTooMany) != (tt.want != nil) {
				t.Errorf("errors.Is(%v, ErrTooMany) = %v", err, tt.want == nil)
			}
		})
	}
}

func TestPlanWithoutTranslator(t *testing.T) {
	in := smallGuest()
	in.Translator = nil
	in.Requests = []Request{virtual(va(1), 1), physical(0x110000, 1)}
	got, err := NewPlan(t.Context(), in)
	if err != nil || got.Exclude.Pages() != 1 || len(got.Refused) != 1 || got.Refused[0].Status != StatusInvalidAddress {
		t.Errorf("NewPlan = %+v, %v; want one page left out and one request refused", got, err)
	}
}

func TestPlanEmpty(t *testing.T) {
	got, err := NewPlan(t.Context(), Input{})
	if diff := cmp.Diff(&Plan{}, got); err != nil || diff != "" {
		t.Errorf("NewPlan of nothing failed with %v, or (-want +got):\n%s", err, diff)
	}
}

func TestPlanCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in := smallGuest()
	in.Requests = []Request{virtual(va(1), 1)}
	if got, err := NewPlan(ctx, in); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("NewPlan = %v, %v; want context.Canceled", got, err)
	}
}

// cancelling is a Translator whose context ends while it walks.
type cancelling struct {
	fourLevels
	cancel func()
}

func (c cancelling) Extent(ctx context.Context, _ phys.VirtAddr) (phys.Extent, error) {
	c.cancel()
	return phys.Extent{}, ctx.Err()
}

// That is not an unreadable page table.
func TestPlanCancelledMeanwhile(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in := smallGuest()
	in.Translator = cancelling{cancel: cancel}
	in.Requests = []Request{virtual(va(1), 1)}
	if got, err := NewPlan(ctx, in); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("NewPlan = %v, %v; want context.Canceled", got, err)
	}
}
