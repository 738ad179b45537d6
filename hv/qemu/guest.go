package qemu

import (
	"context"
	"sync/atomic"

	"snap/phys"
)

// maxCPUs bounds the processors that we believe; QEMU's machines stop at 4096.
const maxCPUs = 4096

// Options say what is known of a guest beforehand.
type Options struct {
	Name string // for errors
	UUID string // that QEMU was started with (-uuid), in its usual form

	// PIDFile is where whoever started QEMU has noted its process, for a second
	// opinion. It need not be there; empty for none.
	PIDFile string
}

// Guest is a guest that one QEMU runs. It is safe for concurrent use.
type Guest struct {
	m Monitor
	o Options

	kvm atomic.Pointer[bool] // whether KVM runs the guest; nil until it was asked
}

// New returns the guest of the QEMU that m reaches. It asks nothing.
func New(m Monitor, o Options) *Guest { return &Guest{m: m, o: o} }

// RAM returns the guest's RAM map as it is now.
func (g *Guest) RAM(ctx context.Context) (phys.Runs, error) {
	m, err := g.RAMMap(ctx)
	return m.runs, err
}

// underKVM reports whether KVM runs the guest, and not QEMU itself.
func (g *Guest) underKVM(ctx context.Context) (bool, error) {
	if known := g.kvm.Load(); known != nil {
		return *known, nil
	}
	now, err := qmp[struct{ Enabled bool }](ctx, g, "query-kvm")
	if err == nil {
		g.kvm.Store(&now.Enabled)
	}
	return now.Enabled, err
}
