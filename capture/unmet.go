package capture

import (
	"errors"
	"fmt"
	"strings"

	"snap/exclude"
)

// ErrUnmet says that a page that somebody asked to leave out of the dump would, or
// might, be in it, and that LookOptions wants no dump then. Test with errors.Is;
// the error is an *UnmetError.
var ErrUnmet = errors.New("not all that was asked for would stay out of the dump")

// UnmetError says which requests to leave pages out are not met.
type UnmetError struct {
	Unmet Unmet
	Why   []string // a sentence for each; not empty
}

// maxUnmetWhy bounds the reasons in an error's text.
const maxUnmetWhy = 3

func (e *UnmetError) Error() string {
	why, more := e.Why, ""
	if n := len(why) - maxUnmetWhy; n > 0 {
		why, more = why[:maxUnmetWhy], fmt.Sprintf("; and %d more", n)
	}
	return fmt.Sprintf("%v: %s%s", ErrUnmet, strings.Join(why, "; "), more)
}

// Is reports whether target is ErrUnmet.
func (e *UnmetError) Is(target error) bool { return target == ErrUnmet }

// Unmet counts what somebody asked to leave out of a dump that is, or may be, in
// it. Refused are also the requests that are kept because it isn't known which
// pages a debugger needs; Kept are only those that the operator wants to keep.
type Unmet struct {
	exclude.Unmet

	// Unread is how often what drivers advertise could not be read, or not in
	// full, or not as it was at the moment of the dump: tables, modules that might
	// have one, the list of modules.
	Unread int
}

// Any reports whether any page may be in the dump against somebody's wish. What the
// operator wants to keep doesn't count.
func (u Unmet) Any() bool { return u.Refused+u.Unresolved+u.Unread > 0 }

// unread says that something advertised isn't known.
func (a *Analysis) unread(format string, args ...any) {
	if a.keeps {
		a.warn(format, args...) // nobody would leave it out
		return
	}
	a.Unmet.Unread++
	a.unmet(format, args...)
}

// unmet says that something that was asked out is, or may be, in the dump.
func (a *Analysis) unmet(format string, args ...any) {
	a.whyUnmet = append(a.whyUnmet, fmt.Sprintf(format, args...))
	a.warnOfContents(format, args...)
}

// checkUnmet fails with an *UnmetError if all that was asked out must stay out, and
// doesn't.
func (a *Analysis) checkUnmet(x Exclusion) error {
	if !x.Require || !a.Unmet.Any() {
		return nil
	}
	return &UnmetError{Unmet: a.Unmet, Why: a.whyUnmet}
}

// whyDegraded says why Degraded holds, in a few words each; nothing if it doesn't.
func (a *Analysis) whyDegraded() []string {
	var why []string
	if a.Unmet.Any() {
		why = append(why, "not all that was asked for would stay out of it")
	}
	if a.Memory.Lost > 0 {
		why = append(why, "its source lacks pages that the guest had")
	}
	if a.Memory.Suspicious {
		why = append(why, "the guest hides memory, or doesn't use it")
	}
	return append(why, whatLacks(a.lacks)...)
}

// Degraded reports whether a dump that follows from a is not what it should be:
// pages may be in it that were asked to stay out, the source lacks some, the guest hides
// memory, or debuggers lack something of it.
func (a *Analysis) Degraded() bool { return len(a.whyDegraded()) > 0 }
