package labhv

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// memory reads an image as a hypervisor's mechanism would.
type memory struct {
	image     *ntlab.Image
	mechanism hv.Mechanism

	mu     sync.RWMutex
	closed bool
}

// errClosed says that a read came after Close.
var errClosed = errors.New("memory of the lab guest is closed")

// OpenMemory implements hv.Source. All mechanisms read the same memory.
func (v *VM) OpenMemory(ctx context.Context, m hv.Mechanism) (hv.Memory, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open memory of lab guest %s: %w", v.guest.Name, err)
	}
	switch m {
	case hv.MechanismAuto:
		m = hv.MechanismDirect
	case hv.MechanismDirect, hv.MechanismPeek:
	default:
		return nil, fmt.Errorf("open memory of lab guest %s by %q: %w", v.guest.Name, m, hv.ErrUnsupported)
	}
	return &memory{image: v.image, mechanism: m}, nil
}

// Mechanism implements hv.Memory.
func (m *memory) Mechanism() hv.Mechanism { return m.mechanism }

// RAM implements hv.Memory.
func (m *memory) RAM() phys.Runs { return m.image.RAM() }

// Populated implements hv.Memory. Only the direct mechanism knows, as with a
// real hypervisor.
func (m *memory) Populated(context.Context) (phys.Runs, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, false, errClosed
	}
	if m.mechanism == hv.MechanismPeek {
		return m.image.RAM(), false, nil
	}
	return m.image.Populated(), true, nil
}

// ReadPhys implements phys.Reader.
func (m *memory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return &phys.AccessError{At: at, Len: len(p), Err: errClosed}
	}
	return m.image.ReadPhys(ctx, p, at)
}

// Close implements hv.Memory.
func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
