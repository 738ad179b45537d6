package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"snap/hv"
)

// ending is a connection whose domains end, or can't be looked at, after they were
// listed.
type ending struct {
	hv.Connection // nothing else is asked for

	why map[string]error // by UUID: why a domain isn't there
}

func (c ending) Domains(context.Context) ([]hv.DomainInfo, error) {
	all := []hv.DomainInfo{{UUID: "off"}}
	for uuid := range c.why {
		all = append(all, hv.DomainInfo{UUID: uuid, ID: 7})
	}
	return all, nil
}

func (c ending) Lookup(_ context.Context, ref string) (hv.VM, error) {
	return nil, fmt.Errorf("look for domain %q: %w", ref, c.why[ref])
}

// TestRecoverAllOfEnding: a domain that ends while all are looked at has no mark any
// more, and hides no other's fault.
func TestRecoverAllOfEnding(t *testing.T) {
	ended := map[string]error{"gone": hv.ErrNoDomain, "off since": hv.ErrNotRunning}
	for _, found := range []int{0, 1} { // by state files
		r := &recovering{a: &app{stdout: &bytes.Buffer{}}, known: map[string]bool{}, found: found}
		if err := r.all(t.Context(), ending{why: ended}); err != nil {
			t.Errorf("all() where domains have ended = %v; want no error", err)
		}
		denied := map[string]error{"gone": hv.ErrNoDomain, "denied": hv.ErrDenied}
		if err := r.all(t.Context(), ending{why: denied}); !errors.Is(err, hv.ErrDenied) || errors.Is(err, hv.ErrNoDomain) {
			t.Errorf("all() where one can't be looked at = %v; want %v alone", err, hv.ErrDenied)
		}
	}
}
