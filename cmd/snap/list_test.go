package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"snap/hv"
)

// TestListUnknown: a domain of which nothing is known is listed with why.
func TestListUnknown(t *testing.T) {
	silent := fmt.Errorf("ask for domain: %w within 5s", hv.ErrNoAnswer)
	for err, want := range map[error]string{
		silent:                                "? (no answer)",
		fmt.Errorf("x: %w", hv.ErrDenied):     "? (not allowed)",
		fmt.Errorf("x: %w", hv.ErrBusy):       "? (busy)",
		errors.New("something of its own"):    "? (unreadable)",
		fmt.Errorf("x: %w", context.Canceled): "? (unreadable)",
	} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		got := a.listDomains(t.Context(), []hv.DomainInfo{{Name: "a", State: hv.StateOff}, {Name: "b", State: hv.StateOther, Err: err}, {Name: "c", State: hv.StateOff}})
		if len(got) != 3 || got[0].Name != "a" || got[1].Guest != want || got[1].Why != err.Error() || got[2].Name != "c" {
			t.Errorf("listDomains() = %+v; want a, b with %q and why, and c", got, want)
		}
		if b, err := json.Marshal(got[1]); err != nil || !bytes.Contains(b, []byte(`"modes":[]`)) {
			t.Errorf("the entry is %s (%v); want it with no modes", b, err)
		}
	}
	if code, advice := classify(silent); code != exitFailed || advice == "" {
		t.Errorf("classify(%v) = %d, %q; want %d and what to do", silent, code, advice, exitFailed)
	}
}
