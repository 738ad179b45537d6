package hv

import (
	"context"
	"net/url"
)

// Connection is a way to the guests of a host. It is safe for concurrent use.
type Connection interface {
	// URI returns the URI that the connection was opened with.
	URI() string

	// Domains lists all domains, running or not, by name. A domain that goes
	// away meanwhile is left out. One that isn't answered for in a few seconds,
	// because a job has it locked for instance, is listed with why (Err); where
	// that happens time and again the error is ErrNoAnswer.
	Domains(ctx context.Context) ([]DomainInfo, error)

	// Lookup finds a domain by its name, UUID or id, in that order, and returns
	// the run of it that is under way: after it was stopped and started again,
	// another Lookup is needed. The error is ErrNoDomain where there is none.
	// The caller closes the VM before the connection.
	Lookup(ctx context.Context, ref string) (VM, error)

	// Close ends the connection. Calls in flight fail.
	Close() error
}

// DomainInfo is a line of a list of domains.
type DomainInfo struct {
	Name   string
	UUID   string
	ID     int // 0 if it isn't running
	State  State
	Memory uint64 // bytes, the most that it was given
	CPUs   int
	Err    error // why State, Memory and CPUs aren't known, nil if they are
}

// Driver opens connections of one kind.
type Driver struct {
	Name string // such as "libvirt"

	// Examples are URIs that it opens, or forms of them, for help and errors.
	Examples []string

	// Takes reports whether a URI is the driver's to open.
	Takes func(u *url.URL) bool

	// Connect opens a connection. The error is ErrDenied where the daemon or
	// its socket refuses us, ErrUnreachable where there is none, and
	// ErrUnsupported for a URI that asks for what the driver can't do.
	Connect func(ctx context.Context, uri string) (Connection, error)
}
