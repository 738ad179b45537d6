package connect_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/connect"
)

// TestDrivers: every example is taken by its own driver alone, and by the way that
// Open finds it.
func TestDrivers(t *testing.T) {
	drivers := connect.Drivers()
	var names []string
	for i, d := range drivers {
		if d.Name == "" || len(d.Examples) == 0 || slices.Contains(names, d.Name) {
			t.Errorf("driver %d is called %q and has %d examples; want a name of its own and some", i, d.Name, len(d.Examples))
		}
		names = append(names, d.Name)
		for _, example := range d.Examples {
			u, err := url.Parse(example)
			if err != nil {
				t.Errorf("%s: example %q: %v", d.Name, example, err)
				continue
			}
			for _, other := range drivers {
				if got, want := other.Takes(u), other.Name == d.Name; got != want {
					t.Errorf("driver %s takes %q, an example of %s: %v; want %v", other.Name, example, d.Name, got, want)
				}
			}
		}
	}
}

// TestUnknown: what no driver takes is not tried, and the error says what can be.
func TestUnknown(t *testing.T) {
	for _, uri := range []string{"", "xen:///", "vmware://host/", "qemu", "/var/run/libvirt-sock", "LAB", "qem+ssh://host/system"} {
		_, err := connect.Open(t.Context(), uri)
		if !errors.Is(err, hv.ErrURI) {
			t.Errorf("Open(%q) = %v; want %v", uri, err, hv.ErrURI)
			continue
		}
		for _, d := range connect.Drivers() {
			for _, example := range d.Examples {
				if !strings.Contains(err.Error(), example) {
					t.Errorf("Open(%q) = %v; want %q in it", uri, err, example)
				}
			}
		}
	}
	if _, err := connect.Open(t.Context(), "qemu://[::1"); err == nil {
		t.Error("Open of what is no URI succeeded")
	}
}

// toy is a connection to a host without guests.
type toy struct {
	hv.Connection // nothing else is asked for

	uri string
}

func (c toy) URI() string { return c.uri }

// toyDriver is all that a new hypervisor has to bring.
func toyDriver() hv.Driver {
	return hv.Driver{
		Name:     "toy",
		Examples: []string{"toy:///"},
		Takes:    func(u *url.URL) bool { return u.Scheme == "toy" },
		Connect:  func(_ context.Context, uri string) (hv.Connection, error) { return toy{uri: uri}, nil },
	}
}

// TestAddADriver: a hypervisor is added by one line in the list.
func TestAddADriver(t *testing.T) {
	drivers := append(
		connect.Drivers(),
		toyDriver(),
	)
	c, err := connect.OpenWith(t.Context(), "toy:///shelf", drivers)
	if err != nil || c.URI() != "toy:///shelf" {
		t.Errorf("OpenWith(toy) = %v, %v; want the toy", c, err)
	}
	if _, err := connect.OpenWith(t.Context(), "lab:///", drivers); err != nil {
		t.Errorf("OpenWith(lab) = %v; want the built-in guests still", err)
	}
	if _, err := connect.OpenWith(t.Context(), "xen:///", drivers); !errors.Is(err, hv.ErrURI) || !strings.Contains(err.Error(), "toy:///") {
		t.Errorf("OpenWith(xen) = %v; want %v with the toy among the examples", err, hv.ErrURI)
	}
	if _, err := connect.Open(t.Context(), "toy:///shelf"); !errors.Is(err, hv.ErrURI) {
		t.Errorf("Open(toy) = %v; want that the usual list is as it was", err)
	}
}
