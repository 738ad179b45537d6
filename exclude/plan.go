package exclude

import (
	"context"
	"errors"
	"fmt"

	"snap/phys"
)

// What a plan may cost, whatever the guest asks for.
const (
	// MaxRequests bounds the advertised requests that a plan looks at.
	MaxRequests = 1 << 17
	// MaxRequestsBy bounds those of one driver.
	MaxRequestsBy = 1 << 16
	// MaxFragments bounds the pieces of physical memory into which all virtual
	// ranges together may fall.
	MaxFragments = 1 << 20
)

// ErrTooMany says that the requests together leave out more pages than the
// limit. Test with errors.Is; the error is a *TooManyError.
var ErrTooMany = errors.New("too many pages to leave out")

// TooManyError says by how much a plan is over its limit.
type TooManyError struct {
	Excluded uint64 // pages that would be left out
	Limit    uint64 // pages
	Total    uint64 // pages of RAM
	By       string // who would leave most of them out
	ByPages  uint64 // how many
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("leave pages out: %d of %d pages are asked for, the limit is %d (%s asks for %d)",
		e.Excluded, e.Total, e.Limit, e.By, e.ByPages)
}

// Is reports whether target is ErrTooMany.
func (e *TooManyError) Is(target error) bool { return target == ErrTooMany }

// Translator finds the physical memory behind virtual addresses. It need not be
// safe for concurrent use. A page table walk is one.
type Translator interface {
	// Canonical reports whether va can be translated at all. What can't lies in one
	// stretch, between the halves of the address space (Intel SDM volume 1,
	// 3.3.7.1).
	Canonical(va phys.VirtAddr) bool
	// Extent says of the page at va, the first byte of a 4 KiB page, and of those
	// that follow it, whether they are in physical memory and where: as much at a
	// time as the walk can vouch for, so that terabytes of nothing take few calls.
	//
	// What isn't present for the processor but still in RAM is Resident. Absent is
	// only what certainly isn't in RAM; all else is Unresolved.
	//
	// An error means that the walk could not be made, not that nothing is mapped.
	Extent(ctx context.Context, va phys.VirtAddr) (phys.Extent, error)
}

// Protected is a set of pages that are never left out.
type Protected struct {
	Reason string // what they are, such as "page table"
	Pages  phys.Runs
}

// Input is what a plan is made from.
type Input struct {
	// Requests in order of precedence: a page that several ask for counts for
	// the first of them.
	Requests []Request
	// RAM is the guest's RAM map. Requests for anything else are refused.
	RAM phys.Runs
	// Protected are the pages without which the dump would not open.
	Protected []Protected
	// Translator serves virtual requests. nil refuses them all.
	Translator Translator
	// BugCheckCode is that of the dump.
	BugCheckCode uint32
	// KeepAdvertised ignores requests with the reason Advertised.
	KeepAdvertised bool
	// Limit is the largest number of pages that may be left out; 0 is half of
	// the guest's pages.
	Limit uint64
}

// Plan is what stays out of a dump, and the account of every request.
type Plan struct {
	// Exclude are the pages to leave out: all of them RAM, none protected.
	Exclude phys.Runs
	// Entries are the requests that are honoured, in the order they came in.
	// Their Excluded pages add up to Exclude.Pages().
	Entries []Entry
	// Refused are the requests that are not, in the order they came in.
	Refused []Refusal
	// Ignored are the requests that ask for nothing in this dump, in the order
	// they came in.
	Ignored []Ignored
}

// Entry is a request that is honoured. Excluded, Shared, NotPresent and Unresolved
// add up to Request.Pages.
type Entry struct {
	Request    Request
	Excluded   uint64 // pages that stay out, and that no earlier entry asked for
	Shared     uint64 // pages that an earlier entry asked for, or this one by another virtual address
	NotPresent uint64 // pages that are not in RAM; nothing to leave out
	// Unresolved pages may be in RAM, but page tables don't say where: unless an
	// entry asks for them otherwise, they are in the dump. The first is at
	// UnresolvedAt, if there are any.
	Unresolved   uint64
	UnresolvedAt phys.VirtAddr
}

// Refusal is a request that is not honoured, as a whole.
type Refusal struct {
	Request Request
	Status  NTStatus
	Reason  string // such as "outside the guest's RAM"
	// At is the first address of the request that can't be left out, of the
	// request's own kind; the request's address if all of it is wrong.
	At uint64
	// Requests is how many requests this line stands for: 1, or those of one
	// driver above MaxRequests or MaxRequestsBy, of which Request is the first.
	Requests int
	// Moot: nothing is in the dump for that the request is refused. All that it
	// names is outside of RAM, or Input.KeepAdvertised keeps it anyway.
	Moot bool
}

// Ignored is a well-formed request that does not concern this dump.
type Ignored struct {
	Request Request
	Why     string // such as "asks for no pages"
	Kept    bool   // by Input.KeepAdvertised: its pages are in the dump
}

// Unmet says how far a plan falls short of what was asked for. The zero value says
// that no page is in the dump that somebody asked to leave out of it, but for
// those of Kept.
type Unmet struct {
	Refused    int    // requests that are refused, but for those that are moot
	Unresolved int    // requests that are honoured in part: where the rest is isn't known
	Pages      uint64 // of the latter, so many
	Kept       int    // requests that are ignored by Input.KeepAdvertised
}

// Unmet counts what p does not leave out.
func (p *Plan) Unmet() Unmet {
	var u Unmet
	for _, r := range p.Refused {
		if !r.Moot {
			u.Refused += r.Requests
		}
	}
	for _, e := range p.Entries {
		if e.Unresolved > 0 {
			u.Unresolved++
			u.Pages += e.Unresolved // a request has fewer than 2^52, and there are fewer than 2^18
		}
	}
	for _, i := range p.Ignored {
		if i.Kept {
			u.Kept++
		}
	}
	return u
}
