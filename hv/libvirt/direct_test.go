package libvirt

import (
	"errors"
	"testing"

	"snap/hv"
)

// TestDirectIsLocal: a daemon that isn't reached by a socket may be anywhere.
func TestDirectIsLocal(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	d.conn.target.local = false
	if _, err := d.OpenMemory(t.Context(), hv.MechanismDirect); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("OpenMemory(direct) over the network = %v; want %v", err, hv.ErrUnsupported)
	}
}
