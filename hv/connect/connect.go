// Package connect opens a connection to the guests of a host by its URI. It is
// the one list of the kinds of connection there are.
package connect

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"snap/hv"
	"snap/hv/libvirt"
	"snap/internal/ntlab/labhv"
)

// Drivers returns what opens connections, one for each kind, in the order in
// which they are asked.
func Drivers() []hv.Driver {
	return []hv.Driver{
		libvirt.Driver(),
		labhv.Driver(),
	}
}

// Open opens the connection that uri names. A URI that no driver takes is an
// hv.ErrUnsupported; see hv.Driver for the rest. The caller closes it.
func Open(ctx context.Context, uri string) (hv.Connection, error) {
	return OpenWith(ctx, uri, Drivers())
}

// OpenWith is Open by the given drivers.
func OpenWith(ctx context.Context, uri string, drivers []hv.Driver) (hv.Connection, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, fmt.Errorf("connection URI %q: %w: %w", uri, hv.ErrURI, err)
	}
	var examples []string
	for _, d := range drivers {
		if d.Takes(u) {
			return d.Connect(ctx, uri)
		}
		examples = append(examples, d.Examples...)
	}
	return nil, fmt.Errorf("connection URI %q: driver %q: %w: only QEMU guests can be read; it can be %s",
		uri, u.Scheme, hv.ErrURI, strings.Join(examples, ", "))
}
