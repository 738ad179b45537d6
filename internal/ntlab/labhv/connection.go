package labhv

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"snap/hv"
)

// Driver returns what opens lab:///.
func Driver() hv.Driver {
	return hv.Driver{
		Name:     "lab",
		Examples: []string{URI},
		Takes:    func(u *url.URL) bool { return u.Scheme == "lab" },
		Connect:  func(context.Context, string) (hv.Connection, error) { return connection{}, nil },
	}
}

// connection is the host of the built-in guests.
type connection struct{}

// URI implements hv.Connection.
func (connection) URI() string { return URI }

// Domains implements hv.Connection.
func (connection) Domains(ctx context.Context) ([]hv.DomainInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list lab guests: %w", err)
	}
	var out []hv.DomainInfo
	for _, g := range List() {
		out = append(out, hv.DomainInfo{Name: g.Name, State: hv.StateRunning, Memory: g.Memory, CPUs: g.CPUs})
	}
	slices.SortFunc(out, func(a, b hv.DomainInfo) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Lookup implements hv.Connection: it builds the guest.
func (connection) Lookup(ctx context.Context, name string) (hv.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open lab guest %q: %w", name, err)
	}
	vm, err := Open(name)
	if err != nil {
		return nil, err
	}
	return vm, nil
}

// Close implements hv.Connection.
func (connection) Close() error { return nil }
