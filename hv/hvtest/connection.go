package hvtest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"snap/hv"
)

// nobodys is the name of no domain.
const nobodys = "no-such-domain-of-hvtest"

// maxLookups bounds the domains that the suite looks up: that can take a while.
const maxLookups = 2

// TestConnection runs what every connection must do. open is called once, with the
// URI that the connection is to have; there must be a domain on it. The suite
// closes the connection.
func TestConnection(t *testing.T, uri string, open func(t *testing.T) hv.Connection) {
	t.Helper()
	c := open(t)
	if got := c.URI(); got != uri {
		t.Errorf("URI() = %q; want %q", got, uri)
	}
	list, err := c.Domains(t.Context())
	if err != nil || len(list) == 0 {
		t.Fatalf("Domains() = %d, %v; want some", len(list), err)
	}
	if !slices.IsSortedFunc(list, func(a, b hv.DomainInfo) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("Domains() = %v; want them by name", list)
	}
	for _, info := range list[:min(len(list), maxLookups)] {
		testLookup(t, c, info)
	}
	if _, err := c.Lookup(t.Context(), nobodys); !errors.Is(err, hv.ErrNoDomain) {
		t.Errorf("Lookup(%q) = %v; want %v", nobodys, err, hv.ErrNoDomain)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Domains(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Domains() with an ended context = %v; want %v", err, context.Canceled)
	}
	if _, err := c.Lookup(ctx, list[0].Name); !errors.Is(err, context.Canceled) {
		t.Errorf("Lookup() with an ended context = %v; want %v", err, context.Canceled)
	}
	testLookup(t, c, list[0]) // the connection is none the worse for it
	if err := c.Close(); err != nil {
		t.Errorf("Close() failed: %v", err)
	}
}

// testLookup: a domain of the list is found by all that names it, and is the same.
func testLookup(t *testing.T, c hv.Connection, info hv.DomainInfo) {
	t.Helper()
	for _, ref := range []string{info.Name, info.UUID} {
		if ref == "" {
			continue // it has none
		}
		vm, err := c.Lookup(t.Context(), ref)
		if err != nil {
			t.Errorf("Lookup(%q) failed: %v", ref, err)
			continue
		}
		if id := vm.Identity(); id.Name != info.Name || info.UUID != "" && id.UUID != info.UUID || id.URI != c.URI() {
			t.Errorf("Lookup(%q) finds %+v; want %+v on %s", ref, id, info, c.URI())
		}
		if s, err := vm.State(t.Context()); err != nil || s == "" {
			t.Errorf("State() of %q = %q, %v; want one", ref, s, err)
		}
		if err := vm.Close(); err != nil {
			t.Errorf("Close() of %q failed: %v", ref, err)
		}
	}
}
