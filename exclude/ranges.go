package exclude

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"snap/phys"
)

// FlagName is who asks for a range that was written on the command line.
const FlagName = "--exclude"

// Limits of what ParseRanges reads.
const (
	MaxRanges   = 1 << 16 // in all arguments and files together
	maxLineSize = 1 << 10 // bytes of a line in a file
)

// Prefixes of the ranges that operators write.
const (
	prefixVirtual  = "va"
	prefixPhysical = "pa"
)

// ErrRange says that a text is not a range. Test with errors.Is; the error is a
// *RangeError.
var ErrRange = errors.New("not a range of pages")

// RangeError is a range that was written wrongly.
type RangeError struct {
	Source string // FlagName or a file's name
	Line   int    // in the file, from 1 on; 0 on the command line
	Text   string // what was written
	Reason string
}

func (e *RangeError) Error() string {
	at := e.Source
	if e.Line > 0 {
		at += ":" + strconv.Itoa(e.Line)
	}
	return fmt.Sprintf("%s: %q: %s", at, e.Text, e.Reason)
}

// Is reports whether target is ErrRange.
func (e *RangeError) Is(target error) bool { return target == ErrRange }

// ParseRanges returns the requests that an operator makes by the arguments of
// --exclude. Each argument is a list, separated by commas, of
//
//	pa:ADDRESS[+PAGES]   4 KiB pages from a guest-physical address on
//	va:ADDRESS[+PAGES]   the same from a virtual address of the System process
//	@FILE                ranges from a file, one on each line
//
// ADDRESS and PAGES are decimal, or hexadecimal after 0x; without PAGES it is
// one page. ADDRESS is that of a page. In a file, blank
// lines and what follows a # are skipped. A file can't name files, and the name
// of a file can't have a comma.
//
// open opens a file by its name; ParseRanges closes it. A range that is written
// wrongly is a *RangeError.
func ParseRanges(args []string, open func(name string) (io.ReadCloser, error)) ([]Request, error) {
	var rs []Request
	for _, arg := range args {
		for text := range strings.SplitSeq(arg, ",") {
			if len(rs) >= MaxRanges {
				return nil, tooManyRanges(FlagName)
			}
			text = strings.TrimSpace(text)
			if name, ok := strings.CutPrefix(text, "@"); ok {
				var err error
				if rs, err = appendFile(rs, name, open); err != nil {
					return nil, err
				}
				continue
			}
			r, reason := parseRange(text)
			if reason != "" {
				return nil, &RangeError{Source: FlagName, Text: text, Reason: reason}
			}
			r.By = FlagName
			rs = append(rs, r)
		}
	}
	return rs, nil
}

func tooManyRanges(source string) error {
	return fmt.Errorf("read ranges of %s: more than %d ranges to leave out", source, MaxRanges)
}

// appendFile appends the ranges in the file of that name to rs.
func appendFile(rs []Request, name string, open func(string) (io.ReadCloser, error)) ([]Request, error) {
	if name == "" {
		return nil, &RangeError{Source: FlagName, Text: "@", Reason: "a file's name must follow the @"}
	}
	f, err := open(name)
	if err != nil {
		return nil, fmt.Errorf("read ranges to leave out: %w", err)
	}
	rs, err = appendLines(rs, name, f)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("read ranges of %s: %w", name, closeErr)
	}
	return rs, err
}

// appendLines appends the ranges in the lines of r to rs.
func appendLines(rs []Request, name string, r io.Reader) ([]Request, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLineSize)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if len(rs) >= MaxRanges {
			return nil, tooManyRanges(name)
		}
		req, reason := parseRange(text)
		if reason != "" {
			return nil, &RangeError{Source: name, Line: n, Text: text, Reason: reason}
		}
		req.By = name
		rs = append(rs, req)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read ranges of %s: line %d: %w", name, n+1, err)
	}
	return rs, nil
}

// parseRange parses one range, or says what is wrong with it.
func parseRange(text string) (Request, string) {
	r := Request{Reason: Operator, Pages: 1}
	prefix, rest, ok := strings.Cut(text, ":")
	switch {
	case ok && prefix == prefixPhysical:
		r.Flags = FlagPhysical
	case ok && prefix == prefixVirtual:
		r.Flags = FlagVirtual
	case strings.HasPrefix(text, "@"):
		return Request{}, "a file can't name another file"
	default:
		return Request{}, "must begin with pa: (physical), va: (virtual) or @ (a file)"
	}
	address, pages, counted := strings.Cut(rest, "+")
	var reason string
	if r.Address, reason = parseNumber("address", address); reason != "" {
		return Request{}, reason
	}
	if counted {
		if r.Pages, reason = parseNumber("number of pages", pages); reason != "" {
			return Request{}, reason
		}
	}
	if r.Pages == 0 {
		return Request{}, "asks for no pages"
	}
	if off := r.Address % phys.PageSize; off != 0 {
		return Request{}, fmt.Sprintf("begins inside a page: write %s:%#x for that page", prefix, r.Address-off)
	}
	if _, ok := r.physicalRun(); r.Kind() == Physical && !ok {
		return Request{}, "leaves the 52-bit guest-physical address space"
	}
	if _, ok := r.virtualSpan(phys.VirtAddr.Canonical); r.Kind() == Virtual && !ok {
		return Request{}, "is not a canonical virtual range"
	}
	return r, ""
}

// parseNumber parses a decimal or 0x-prefixed number, or says what is wrong
// with it.
func parseNumber(what, text string) (uint64, string) {
	digits, base := text, 10
	if len(text) > 2 && (text[:2] == "0x" || text[:2] == "0X") {
		digits, base = text[2:], 16
	}
	n, err := strconv.ParseUint(digits, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Sprintf("the %s is larger than %#x", what, uint64(math.MaxUint64))
	case text == "":
		return 0, fmt.Sprintf("the %s is missing", what)
	case err != nil:
		return 0, fmt.Sprintf("the %s %q is no number: write digits, or 0x and hexadecimal digits", what, text)
	}
	return n, ""
}
