package guest

import (
	"fmt"
	"strings"

	"snap/phys"
)

// maxTried bounds the attempts that are kept, beside the one that succeeded.
const maxTried = 16

// Attempt is one thing that Discover tried.
type Attempt struct {
	Finder string    // name of the Finder
	What   string    // what led to the page table, such as "vCPU 2 CR3"; empty where the finder found none
	Root   phys.Addr // of the page table
	Err    error     // why it is not the guest's; nil for the one that is
}

// String says in one line what was tried, and what came of it.
func (a Attempt) String() string {
	result := "leads to Windows"
	if a.Err != nil {
		result = strings.ReplaceAll(a.Err.Error(), "\n", ", ")
	}
	if a.What == "" {
		return result
	}
	return fmt.Sprintf("%s (%#x): %s", a.What, uint64(a.Root), result)
}

// NotFoundError is a Discover that found no Windows, and why. It is of class
// ErrNotWindows, unless memory could not be read: then it wraps the first error of
// the reader instead, and says nothing of what the guest is.
//
// Its text is one sentence with the likeliest reason. What was tried is for those
// who want to know more.
type NotFoundError struct {
	Reason Reason // the likeliest; empty means that nothing is known
	Why    string // how that shows, for people, in one line

	Attempts []Attempt // in order, the first of them if there were very many
	More     int       // attempts beyond those
	// PassedOver are images that may be the kernel and were not looked into, or not
	// successfully: the likeliest first, a few at most.
	PassedOver []PassedOver
	Ended      bool // a search ended at a limit before it had looked at everything

	FailedReads int   // of the guest's memory
	ReadErr     error // the first of them, nil if there was none
}

func (e *NotFoundError) Error() string {
	switch {
	case e.ReadErr != nil:
		return fmt.Sprintf("look for Windows: %d reads of the guest's memory failed, the first: %v", e.FailedReads, e.ReadErr)
	case e.Why == "":
		return ErrNotWindows.Error()
	}
	return fmt.Sprintf("%v: %s", ErrNotWindows, e.Why)
}

// Unwrap returns ErrNotWindows, or the reader's error.
func (e *NotFoundError) Unwrap() error {
	if e.ReadErr != nil {
		return e.ReadErr
	}
	return ErrNotWindows
}

// Is reports whether target is the error's Reason.
func (e *NotFoundError) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && r == e.Reason
}

// attempts are what was tried so far.
type attempts struct {
	list []Attempt
	more int // beyond maxTried
}

func (l *attempts) add(a Attempt) {
	if len(l.list) >= maxTried {
		l.more++
		return
	}
	l.list = append(l.list, a)
}

// note adds that a finder found nothing, or ended before it did.
func (l *attempts) note(f Finder, why error) {
	l.add(Attempt{Finder: f.Name, Err: why})
}

// without returns what was tried but for a, in whatever way it ended.
func (l *attempts) without(a Attempt) *attempts {
	out := &attempts{more: l.more}
	for _, t := range l.list {
		if t.Finder != a.Finder || t.What != a.What || t.Root != a.Root {
			out.list = append(out.list, t)
		}
	}
	return out
}

// with returns what was tried and, at the end, what succeeded.
func (l *attempts) with(found Attempt) []Attempt {
	return append(l.list[:len(l.list):len(l.list)], found)
}
