package exclude

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/phys"
)

// The model's guest has physical pages 0 to modelPFNs-1 and, from kernelHalf
// on, virtual pages 0 to modelVPNs-1.
const (
	modelPFNs = 64
	modelVPNs = 96
)

// model is a guest, page by page.
type model struct {
	ram       map[uint64]bool
	protected map[uint64]string
	mapped    map[uint64]uint64 // virtual page to physical page
	unread    map[uint64]bool   // virtual pages whose table can't be read
	lost      map[uint64]bool   // virtual pages that are nobody knows where
}

func drawPages(t *rapid.T, label string, limit uint64) phys.Runs {
	rs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) phys.Run {
		base := rapid.Uint64Range(0, limit-1).Draw(t, "base")
		return phys.Run{Base: phys.PFN(base), Pages: rapid.Uint64Range(1, min(8, limit-base)).Draw(t, "pages")}
	}), 0, 5).Draw(t, label)
	runs, err := phys.NewRuns(rs...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// drawGuest draws a guest as the planner and as the model see it.
func drawGuest(t *rapid.T) (Input, model) {
	m := model{map[uint64]bool{}, map[uint64]string{}, map[uint64]uint64{}, map[uint64]bool{}, map[uint64]bool{}}
	in := Input{
		RAM:          mustRuns(phys.Run{Base: 2, Pages: modelPFNs - 4}).Minus(drawPages(t, "holes", modelPFNs).Intersect(drawPages(t, "holes", modelPFNs))),
		BugCheckCode: rapid.SampledFrom([]uint32{0x161, 0xe2}).Draw(t, "code"),
		Limit:        1 << 40,
	}
	for p := range uint64(modelPFNs) {
		m.ram[p] = in.RAM.Has(phys.PFN(p))
	}
	for _, reason := range []string{"page table", "KDBG"} {
		// Few, else nearly nothing is honoured.
		pages := drawPages(t, reason, modelPFNs).Intersect(drawPages(t, reason, modelPFNs))
		in.Protected = append(in.Protected, Protected{reason, pages})
		for p := range uint64(modelPFNs) {
			if pages.Has(phys.PFN(p)) && m.protected[p] == "" {
				m.protected[p] = reason
			}
		}
	}
	s := &space{}
	for at := rapid.Uint64Range(0, 8).Draw(t, "first"); at < modelVPNs; {
		r := region{
			page:  at,
			pages: min(rapid.Uint64Range(1, 24).Draw(t, "pages"), modelVPNs-at),
			pfn:   phys.PFN(rapid.Uint64Range(1, modelPFNs-12).Draw(t, "pfn")),
			size:  rapid.SampledFrom([]uint64{1, 4, 512}).Draw(t, "size"),
			err:   rapid.IntRange(0, 19).Draw(t, "err") == 0,
			lost:  rapid.IntRange(0, 7).Draw(t, "lost") == 0,
		}
		s.regions = append(s.regions, r)
		for p := r.page; p < r.page+r.pages; p++ {
			if m.unread[p], m.lost[p] = r.err, r.lost; !r.err && !r.lost {
				m.mapped[p] = uint64(r.pfn) + p - r.page
			}
		}
		at += r.pages + rapid.SampledFrom([]uint64{0, 0, 1, 9}).Draw(t, "gap")
	}
	in.Translator = s
	return in, m
}

func drawRequest(t *rapid.T) Request {
	r := Request{
		By:           rapid.SampledFrom([]string{"a.sys", "b.sys"}).Draw(t, "by"),
		Reason:       Advertised,
		Flags:        rapid.SampledFrom([]uint32{1, 1, 1, 1, 2, 2, 2, 2, 3, 0, 0x80000ff1, 0x1001}).Draw(t, "flags"),
		BugCheckCode: rapid.SampledFrom([]uint32{0, 0, 0, 0xe2}).Draw(t, "code"),
		Pages:        rapid.SampledFrom([]uint64{0, 1, 1, 2, 2, 3, 4, 5, 8, 20, 100}).Draw(t, "pages"),
	}
	if r.Kind() == Physical {
		r.Address = rapid.Uint64Range(0, modelPFNs<<12-1).Draw(t, "pa")
	} else {
		r.Address = kernelHalf + rapid.Uint64Range(0, modelVPNs<<12-1).Draw(t, "va")
	}
	return r
}

// verdict decides about a request by the rules, one page after the other: the
// refusal, or the physical pages, how many pages aren't there, and which are nobody
// knows where.
func (m model) verdict(r Request) (refused NTStatus, at uint64, pages []uint64, absent uint64, lost []uint64) {
	first := r.Address >> 12
	for i := range r.Pages {
		page, at := first+i, (first+i)<<12
		if r.Kind() == Virtual {
			v := page - kernelHalf>>12
			if m.unread[v] {
				return StatusDataError, at, nil, 0, nil
			}
			if m.lost[v] {
				lost = append(lost, at)
				continue
			}
			p, ok := m.mapped[v]
			if !ok {
				absent++
				continue
			}
			page = p
		}
		if !m.ram[page] {
			return StatusInvalidAddress, at, nil, 0, nil
		}
		if m.protected[page] != "" {
			return StatusAccessDenied, at, nil, 0, nil
		}
		pages = append(pages, page)
	}
	return StatusSuccess, 0, pages, absent, lost
}

// moot says whether nothing of a refused request is in RAM; of a virtual range
// that is only known of a single page.
func (m model) moot(r Request, refused NTStatus) bool {
	if refused != StatusInvalidAddress || r.Kind() == Virtual {
		return refused == StatusInvalidAddress && r.Pages == 1
	}
	for i := range r.Pages {
		if m.ram[r.Address>>12+i] {
			return false
		}
	}
	return true
}

// plan is what the model makes of the requests; refusals carry no reason.
func (m model) plan(in Input) (*Plan, map[uint64]bool) {
	p, gone := &Plan{}, map[uint64]bool{}
	for _, r := range in.Requests {
		kinds := r.Flags & 3
		switch {
		case r.Pages == 0:
			p.Ignored = append(p.Ignored, Ignored{Request: r})
			continue
		case r.Flags&0x1000 != 0:
			p.Refused = append(p.Refused, Refusal{Request: r, Status: StatusInvalidParameter4, At: r.Address, Requests: 1})
			continue
		case kinds == 0 || kinds == 3:
			p.Refused = append(p.Refused, Refusal{Request: r, Status: StatusInvalidParameter, At: r.Address, Requests: 1})
			continue
		case r.BugCheckCode != 0 && r.BugCheckCode != in.BugCheckCode:
			p.Ignored = append(p.Ignored, Ignored{Request: r})
			continue
		}
		status, at, pages, absent, lost := m.verdict(r)
		if status != StatusSuccess {
			p.Refused = append(p.Refused, Refusal{Request: r, Status: status, At: at, Requests: 1, Moot: m.moot(r, status)})
			continue
		}
		e := Entry{Request: r, NotPresent: absent, Unresolved: uint64(len(lost))}
		if len(lost) > 0 {
			e.UnresolvedAt = phys.VirtAddr(lost[0])
		}
		for _, page := range pages {
			if gone[page] {
				e.Shared++
			} else {
				e.Excluded++
			}
			gone[page] = true
		}
		p.Entries = append(p.Entries, e)
	}
	return p, gone
}

func TestPlanModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, m := drawGuest(t)
		in.Requests = rapid.SliceOfN(rapid.Custom(drawRequest), 0, 24).Draw(t, "requests")
		want, gone := m.plan(in)
		got, err := NewPlan(t.Context(), in)
		if err != nil {
			t.Fatalf("NewPlan failed: %v", err)
		}
		checkPlan(t, in, got)
		for p := range uint64(modelPFNs) {
			if got.Exclude.Has(phys.PFN(p)) != gone[p] {
				t.Fatalf("page %#x left out = %v; want %v", p, !gone[p], gone[p])
			}
		}
		got.Exclude = nil
		for i := range got.Refused {
			got.Refused[i].Reason = ""
		}
		for i := range got.Ignored {
			got.Ignored[i].Why = ""
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("plan (-want +got):\n%s", diff)
		}
	})
}

func TestCoverModel(t *testing.T) {
	const points = 40
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 10).Draw(t, "n")
		var (
			in   []span
			want [points]int
		)
		for i := range want {
			want[i] = -1
		}
		for owner := n - 1; owner >= 0; owner-- {
			lo := rapid.Uint64Range(0, points-1).Draw(t, "lo")
			s := span{lo, rapid.Uint64Range(lo+1, points).Draw(t, "hi"), owner}
			in = append(in, s)
			for p := s.lo; p < s.hi; p++ {
				want[p] = owner
			}
		}
		got, last, pieces := [points]int{}, span{owner: -1}, 0
		for i := range got {
			got[i] = -1
		}
		for s := range cover(in) {
			if s.lo >= s.hi || s.lo < last.hi || s.lo == last.hi && s.owner == last.owner {
				t.Fatalf("%v follows %v", s, last)
			}
			last, pieces = s, pieces+1
			for p := s.lo; p < s.hi; p++ {
				got[p] = s.owner
			}
		}
		if got != want {
			t.Fatalf("cover = %v; want %v", got, want)
		}
		if pieces > 2*n {
			t.Fatalf("cover has %d pieces for %d spans; want at most twice as many", pieces, n)
		}
	})
}
