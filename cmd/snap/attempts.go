package main

import (
	"errors"
	"fmt"
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
func (a *app) printAttempts(list []attemptInfo) error {
	t := table.Table{Columns: []string{"LOOKED BY", "AT", "RESULT"}}
	for _, l := range list {
		t.Add(l.Finder, l.What, printable(l.Result))
	}
	fmt.Fprintln(a.stdout, "\nHow Windows was looked for:")
	return t.Write(a.stdout, "  ")
}

// attemptsIn lists what was tried where err is that no Windows was found.
func attemptsIn(err error) []attemptInfo {
	if e, ok := errors.AsType[*guest.NotFoundError](err); ok {
		return attemptsOf(e.Attempts)
	}
	return nil
}
