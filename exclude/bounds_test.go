package exclude

import (
	"context"
	"fmt"
	"testing"

	"snap/phys"
)

// counting is a Translator that maps every virtual page by a function, and
// counts its calls.
type counting struct {
	fourLevels
	calls  uint64
	extent func(page uint64) (pfn phys.PFN, pages uint64, mapped bool)
}

func (c *counting) Extent(_ context.Context, va phys.VirtAddr) (phys.Extent, error) {
	c.calls++
	pfn, pages, mapped := c.extent(uint64(va) >> phys.PageShift)
	if !mapped {
		return phys.Extent{Size: pages << phys.PageShift}, nil
	}
	return phys.Extent{Residence: phys.Resident, At: pfn.Addr(), Size: pages << phys.PageShift}, nil
}

// A hole of terabytes costs one call, however many requests lie in it.
func TestHolesAreCheap(t *testing.T) {
	in := smallGuest()
	c := &counting{extent: func(page uint64) (phys.PFN, uint64, bool) { return 0, 1<<52 - page, false }}
	in.Translator = c
	for i := range uint64(1000) {
		in.Requests = append(in.Requests, virtual(va(i), 1<<35-i))
	}
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	if got := plan.Entries[999].NotPresent; got != 1<<35-999 || c.calls != 1 {
		t.Errorf("the last request has %d absent pages after %d calls; want %d after 1", got, c.calls, 1<<35-999)
	}
}

// 64 tables full of ranges that all overlap cost as much as one of them.
func TestOverlapsAreCheap(t *testing.T) {
	in := Input{RAM: mustRuns(phys.Run{Base: 0x100, Pages: 0x4000}), Limit: 1 << 40}
	c := &counting{extent: func(page uint64) (phys.PFN, uint64, bool) {
		return 0x100 + phys.PFN(page*7919%0x4000), 1, true // scattered
	}}
	in.Translator = c
	const pages = 0x1000
	for table := range 64 {
		by := fmt.Sprintf("%d.sys", table)
		for i := range uint64(1 << 10) {
			r := virtual(va(i%16), pages-i%16)
			r.By = by
			in.Requests = append(in.Requests, r)
		}
	}
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	if len(plan.Entries) != len(in.Requests) || plan.Exclude.Pages() != pages {
		t.Errorf("%d of %d requests leave out %d pages; want all of them, %d", len(plan.Entries), len(in.Requests), plan.Exclude.Pages(), pages)
	}
	if c.calls != pages {
		t.Errorf("%d calls for %d virtual pages; want one each", c.calls, pages)
	}
	if plan.Entries[0].Excluded != pages || plan.Entries[1].Shared != pages-1 {
		t.Errorf("first entries %+v, %+v; want all pages for the first", plan.Entries[0], plan.Entries[1])
	}
}

// Ranges over all of memory cost what lies before the first page that can't be
// left out, and what begins behind it is looked at for itself.
func TestRefusedRangesAreCheap(t *testing.T) {
	in := smallGuest()
	c := &counting{extent: func(page uint64) (phys.PFN, uint64, bool) {
		v := page - kernelHalf>>phys.PageShift
		if v < 128 {
			return phys.PFN(0x140 + v), 128 - v, true // 64 is the KDBG at 0x180
		}
		return 0x17f + phys.PFN(v%2), 1, true // every second page is the KDBG
	}}
	in.Translator = c
	for i := range uint64(65) {
		in.Requests = append(in.Requests, virtual(va(i), 1<<34))
	}
	in.Requests = append(in.Requests, virtual(va(1000), 1), virtual(va(2000), 2))
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	if len(plan.Refused) != 66 || plan.Refused[0].At != va(64) || plan.Refused[64].At != va(64) ||
		plan.Refused[65].At != va(2001) || len(plan.Entries) != 1 {
		t.Errorf("refused %+v, honoured %+v; want all that have page 64 or 2001", plan.Refused, plan.Entries)
	}
	// 0 to 64 at once, then 1000, 2000, 2001.
	if c.calls != 4 {
		t.Errorf("%d calls; want 4", c.calls)
	}
}

// A page table that leads all of an address space to one harmless page doesn't
// keep snap busy, nor does it cost those who asked for less.
func TestAliasesAreBounded(t *testing.T) {
	in := smallGuest()
	c := &counting{extent: func(uint64) (phys.PFN, uint64, bool) { return 0x110, 1, true }}
	in.Translator = c
	in.Requests = []Request{
		virtual(va(0), 3), virtual(va(8), 1<<35-8), physical(0x120000, 1), virtual(va(1<<34), 1), virtual(va(8), 2),
	}
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	const most = 0x200 + 1<<16 // one call for each page of the guest, and some
	if c.calls != most {
		t.Errorf("%d calls; want %d", c.calls, most)
	}
	// Looked at in the order of addresses, until there was enough of it.
	if len(plan.Entries) != 3 || len(plan.Refused) != 2 || plan.Refused[0].Status != StatusInsufficientResources ||
		plan.Refused[1].Request != in.Requests[3] || plan.Refused[1].Status != StatusInsufficientResources {
		t.Errorf("%d entries, refused %+v; want the two highest ranges refused", len(plan.Entries), plan.Refused)
	}
	if plan.Entries[0].Excluded != 1 || plan.Entries[0].Shared != 2 {
		t.Errorf("first entry %+v; want one page, asked for three times", plan.Entries[0])
	}
}

func TestFragmentsAreBounded(t *testing.T) {
	const ram = 4 << 20
	in := Input{RAM: mustRuns(phys.Run{Base: 0, Pages: ram}), Limit: 1 << 40}
	in.Translator = &counting{extent: func(page uint64) (phys.PFN, uint64, bool) {
		return phys.PFN(page * 2 % ram), 1, true // never two beside each other
	}}
	in.Requests = []Request{virtual(va(0), 1<<20), virtual(va(5), 1<<20), virtual(va(1<<21), 1)}
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	if len(plan.Entries) != 1 || len(plan.Exclude) != 1<<20 || len(plan.Refused) != 2 ||
		plan.Refused[0].Status != StatusInsufficientResources || plan.Refused[1].Status != StatusInsufficientResources {
		t.Errorf("%d entries, %d runs, refused %+v; want one entry of 2^20 runs, two refused", len(plan.Entries), len(plan.Exclude), plan.Refused)
	}
}

// What is above a quota is refused, counted, and said in one line.
func TestQuota(t *testing.T) {
	in := smallGuest()
	add := func(by string, reason Reason, n int) {
		for i := range n {
			r := physical(uint64(0x110+i%8)<<12, 1)
			r.By, r.Reason = by, reason
			in.Requests = append(in.Requests, r)
		}
	}
	add("a.sys", Advertised, 65536+3)
	add("b.sys", Advertised, 1)
	add(FlagName, Operator, 70000)
	add("c.sys", Advertised, 65536) // the last 4 of these are above 2^17
	plan, err := NewPlan(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, in, plan)
	if len(plan.Refused) != 2 {
		t.Fatalf("%d lines of refusals; want 2", len(plan.Refused))
	}
	for i, want := range []struct {
		by string
		n  int
	}{{"a.sys", 3}, {"c.sys", 4}} {
		got := plan.Refused[i]
		if got.Request.By != want.by || got.Requests != want.n || got.Status != StatusQuotaExceeded {
			t.Errorf("refusal %d = %+v; want %d of %s", i, got, want.n, want.by)
		}
	}
	by := map[string]int{}
	for _, e := range plan.Entries {
		by[e.Request.By]++
	}
	if by["b.sys"] != 1 || by[FlagName] != 70000 || by["a.sys"] != 65536 {
		t.Errorf("honoured %v; want b.sys, all of the operator's, 65536 of a.sys", by)
	}
}

// A translator that answers nonsense can't lead the planner astray.
func TestOddTranslators(t *testing.T) {
	for name, extent := range map[string]func(uint64) (phys.PFN, uint64, bool){
		"no length, mapped": func(uint64) (phys.PFN, uint64, bool) { return 0x110, 0, true },
		"no length, absent": func(uint64) (phys.PFN, uint64, bool) { return 0, 0, false },
		"too long":          func(uint64) (phys.PFN, uint64, bool) { return 0x110, 1<<52 - 1, true },
		"beyond memory":     func(uint64) (phys.PFN, uint64, bool) { return 1<<52 - 1, 1<<52 - 1, true },
	} {
		in := smallGuest()
		in.Translator = &counting{extent: extent}
		in.Requests = []Request{virtual(va(0), 4), virtual(^uint64(0), 1), virtual(va(2), 1<<35-2)}
		plan, err := NewPlan(t.Context(), in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkPlan(t, in, plan)
	}
}

// The worst that the quotas allow, for its time and memory.
func BenchmarkPlan(b *testing.B) {
	in := Input{RAM: mustRuns(phys.Run{Base: 0, Pages: 4 << 20}), Limit: 1 << 40}
	in.Translator = &counting{extent: func(page uint64) (phys.PFN, uint64, bool) {
		return phys.PFN(page * 2 % (4 << 20)), 1, true
	}}
	for i := range uint64(MaxRequests) {
		r := virtual(va(i*3), 1<<20-i*3)
		r.By = fmt.Sprintf("%d.sys", i%64)
		in.Requests = append(in.Requests, r)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewPlan(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
