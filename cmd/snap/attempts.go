package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"snap/cmd/snap/internal/table"
	"snap/guest"
)

// attemptInfo is one thing that was tried to find Windows in a guest's memory.
type attemptInfo struct {
	Finder string `json:"finder"`
	Cost   string `json:"cost"`
	What   string `json:"what,omitempty"` // what led to a page table
	Found  bool   `json:"found"`
	Result string `json:"result"`
}

// attemptsOf lists what each finder did, those that were not needed included.
func attemptsOf(tried []guest.Attempt) []attemptInfo {
	out := []attemptInfo{}
	found := slices.ContainsFunc(tried, func(a guest.Attempt) bool { return a.Err == nil })
	for _, f := range guest.Finders() {
		n := len(out)
		for _, a := range tried {
			if a.Finder != f.Name {
				continue
			}
			what, result, ok := strings.Cut(a.String(), ": ")
			if !ok || a.What == "" {
				what, result = "", a.String()
			}
			out = append(out, attemptInfo{Finder: f.Name, Cost: f.Cost, What: what, Found: a.Err == nil, Result: result})
		}
		if len(out) == n {
			result := "found nothing"
			if found {
				result = "not needed"
			}
			out = append(out, attemptInfo{Finder: f.Name, Cost: f.Cost, Result: result})
		}
	}
	return out
}

// printAttempts tells how Windows was looked for.
func printAttempts(w io.Writer, list []attemptInfo) error {
	t := table.Table{
		Columns: []string{"LOOKED BY", "AT", "RESULT"}, Width: terminalColumns(w), Most: map[string]int{"LOOKED BY": 22, "AT": 22},
	}
	for _, l := range list {
		t.Add(l.Finder, l.What, printable(l.Result))
	}
	fmt.Fprintln(w, "\nHow Windows was looked for:")
	return t.Write(w, "  ")
}

// withoutWindows says in a few words what a guest is in which no Windows that snap
// understands was found.
func withoutWindows(err error) string {
	for _, w := range []struct {
		reason guest.Reason
		words  string
	}{
		{guest.ReasonFirmware, "in firmware"},
		{guest.Reason32Bit, "32-bit guest"},
		{guest.ReasonEncrypted, "encrypted"},
		{guest.ReasonKernel, "unknown Windows"},
		{guest.ReasonNoKernel, "unknown Windows"},
		{guest.ReasonEnded, "? (search ended)"},
		{guest.ReasonLinux, "looks like Linux"},
		{guest.ReasonNested, "? (hypervisor inside)"},
		{guest.ReasonRAMMap, "? (RAM map)"},
	} {
		if errors.Is(err, w.reason) {
			return w.words
		}
	}
	return "not Windows"
}

// lookedFor is what a search for Windows did that found none, as an error record
// has it beside the message, which says no more than the likeliest reason.
type lookedFor struct {
	Reason     guest.Reason  `json:"reason"`
	Attempts   []attemptInfo `json:"attempts"`
	PassedOver []string      `json:"passed_over"`
	Ended      bool          `json:"search_ended"` // at a limit, before everything was looked at
}

// lookedForIn returns the search that err is the end of, nil if it is something
// else.
func lookedForIn(err error) *lookedFor {
	e, ok := errors.AsType[*guest.NotFoundError](err)
	if !ok {
		return nil
	}
	l := &lookedFor{Reason: e.Reason, Attempts: attemptsOf(e.Attempts), PassedOver: []string{}, Ended: e.Ended}
	for _, p := range e.PassedOver {
		l.PassedOver = append(l.PassedOver, printable(p.String()))
	}
	return l
}

// print tells a person what was done.
func (l *lookedFor) print(w io.Writer) {
	_ = printAttempts(w, l.Attempts)
	if len(l.PassedOver) > 0 {
		fmt.Fprintln(w, "\nImages that may be the kernel and were passed over:")
	}
	for _, p := range l.PassedOver {
		fmt.Fprintf(w, "  %s\n", p)
	}
	fmt.Fprintln(w)
}
