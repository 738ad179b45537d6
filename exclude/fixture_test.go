package exclude

import (
	"context"
	"errors"
	"testing"

	"snap/phys"
)

// kernelHalf is the first address of the canonical upper half.
const kernelHalf = 0xffff_8000_0000_0000

// errTable is a page table that can't be read.
var errTable = errors.New("page table is gone")

// region is a piece of a virtual address space: pages from a virtual page on.
// Between regions there is nothing.
type region struct {
	page  uint64 // virtual page number, counted from kernelHalf
	pages uint64
	pfn   phys.PFN
	size  uint64 // pages that one call tells about at most
	err   bool   // the page table can't be read here
	lost  bool   // it doesn't say where the pages are
}

// space is a Translator over ascending regions that counts its calls.
type space struct {
	fourLevels
	regions []region
	calls   int
}

// fourLevels is Canonical as a guest with 4-level paging has it.
type fourLevels struct{}

func (fourLevels) Canonical(va phys.VirtAddr) bool {
	top := int64(va) >> 47
	return top == 0 || top == -1
}

func (s *space) Extent(_ context.Context, va phys.VirtAddr) (phys.Extent, error) {
	s.calls++
	page := uint64(va-kernelHalf) >> phys.PageShift
	for _, r := range s.regions {
		switch {
		case page < r.page:
			return phys.Extent{Size: (r.page - page) << phys.PageShift}, nil
		case page >= r.page+r.pages:
		case r.err:
			return phys.Extent{}, errTable
		default:
			n := min(r.size-(page-r.page)%r.size, r.page+r.pages-page)
			if r.lost {
				return phys.Extent{Residence: phys.Unresolved, Size: n << phys.PageShift}, nil
			}
			return phys.Extent{Residence: phys.Resident, At: (r.pfn + phys.PFN(page-r.page)).Addr(), Size: n << phys.PageShift}, nil
		}
	}
	return phys.Extent{Size: -uint64(va)}, nil
}

// mustRuns returns the pages in rs, given as base and number of pages.
func mustRuns(rs ...phys.Run) phys.Runs {
	runs, err := phys.NewRuns(rs...)
	if err != nil {
		panic(err)
	}
	return runs
}

// smallGuest is a guest with RAM in [0x100, 0x200) and [0x400, 0x500), of which
// the pages 0x180 and 0x1a0 to 0x1a3 are protected. Its kernel half begins with
// 16 pages at 0x110, then 16 at 0x408, a hole of 32, 4 pages around a protected
// one, 2 that are no RAM, a table that can't be read, the first 16 again, and 4
// pages of which the tables don't say where they are.
func smallGuest() Input {
	return Input{
		RAM: mustRuns(phys.Run{Base: 0x100, Pages: 0x100}, phys.Run{Base: 0x400, Pages: 0x100}),
		Protected: []Protected{
			{"KDBG", mustRuns(phys.Run{Base: 0x180, Pages: 1})},
			{"page table", mustRuns(phys.Run{Base: 0x1a0, Pages: 4})},
		},
		Translator: &space{regions: []region{
			{page: 0, pages: 16, pfn: 0x110, size: 1},
			{page: 16, pages: 16, pfn: 0x408, size: 512},
			{page: 64, pages: 4, pfn: 0x17e, size: 512},
			{page: 68, pages: 2, pfn: 0x300, size: 512},
			{page: 80, pages: 8, err: true},
			{page: 96, pages: 16, pfn: 0x110, size: 512},
			{page: 120, pages: 4, size: 2, lost: true},
		}},
		BugCheckCode: 0x161,
	}
}

// checkPlan checks what holds for every plan that is made from in.
func checkPlan(t interface {
	Helper()
	Fatalf(string, ...any)
}, in Input, p *Plan,
) {
	t.Helper()
	if n := p.Exclude.Intersect(in.RAM).Pages(); n != p.Exclude.Pages() {
		t.Fatalf("%d of %d excluded pages are no RAM", p.Exclude.Pages()-n, p.Exclude.Pages())
	}
	for _, protected := range in.Protected {
		if both := p.Exclude.Intersect(protected.Pages); len(both) > 0 {
			t.Fatalf("%v is left out, but is a %s", both, protected.Reason)
		}
	}
	for i, r := range p.Exclude {
		if !r.Valid() || i > 0 && p.Exclude[i-1].End() >= r.Base {
			t.Fatalf("run %d of %v is out of form", i, p.Exclude)
		}
	}
	var sum uint64
	for _, e := range p.Entries {
		sum += e.Excluded
		if e.Excluded+e.Shared+e.NotPresent+e.Unresolved != e.Request.Pages || e.Request.Pages == 0 {
			t.Fatalf("%+v doesn't add up", e)
		}
	}
	if sum != p.Exclude.Pages() {
		t.Fatalf("entries leave out %d pages, the plan %d", sum, p.Exclude.Pages())
	}
	all := len(p.Entries) + len(p.Ignored)
	for _, r := range p.Refused {
		all += r.Requests
		if r.Status == StatusSuccess || r.Reason == "" {
			t.Fatalf("%+v says no reason", r)
		}
	}
	if all != len(in.Requests) {
		t.Fatalf("the plan accounts for %d of %d requests", all, len(in.Requests))
	}
}

func TestStatusNames(t *testing.T) {
	for status, want := range map[NTStatus]string{
		0x00000000: "STATUS_SUCCESS",
		0xc000000d: "STATUS_INVALID_PARAMETER",
		0xc0000022: "STATUS_ACCESS_DENIED",
		0xc000003e: "STATUS_DATA_ERROR",
		0xc0000044: "STATUS_QUOTA_EXCEEDED",
		0xc000009a: "STATUS_INSUFFICIENT_RESOURCES",
		0xc00000f2: "STATUS_INVALID_PARAMETER_4",
		0xc0000141: "STATUS_INVALID_ADDRESS",
		0xc0000005: "NTSTATUS 0xc0000005",
	} {
		if got := status.String(); got != want {
			t.Errorf("NTStatus(%#x) = %s; want %s", uint32(status), got, want)
		}
	}
}
