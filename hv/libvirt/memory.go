package libvirt

import (
	"context"
	"fmt"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu"
	"snap/phys"
)

// RAM implements hv.VM.
func (d *Domain) RAM(ctx context.Context) (phys.Runs, error) { return d.qemu.RAM(ctx) }

// Registers implements hv.Source. qemu.Guest says what they lack.
func (d *Domain) Registers(ctx context.Context) ([]phys.Registers, error) {
	if err := d.active(ctx); err != nil {
		return nil, err
	}
	return d.qemu.Registers(ctx)
}

// OpenMemory implements hv.Source. What MechanismAuto returns tells by its method
// WhyNotDirect, where it has one, why it isn't direct.
func (d *Domain) OpenMemory(ctx context.Context, how hv.Mechanism) (hv.Memory, error) {
	m, err := d.readable(ctx)
	if err != nil {
		return nil, err
	}
	switch how {
	case hv.MechanismDirect:
		mem, err := d.openDirect(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("read domain %q directly: %w", d.dom.Name, err)
		}
		return mem, nil
	case hv.MechanismPeek:
		return d.peekMemory(m, nil)
	case hv.MechanismAuto, "":
		mem, err := d.openDirect(ctx, m)
		if err == nil {
			return mem, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open memory of domain %q: %w", d.dom.Name, bounded.Ended(ctx))
		}
		return d.peekMemory(m, err)
	}
	return nil, fmt.Errorf("open memory of domain %q: mechanism %q: %w", d.dom.Name, how, hv.ErrUnsupported)
}

// openDirect opens the memory of the QEMU process, which must run on this host.
func (d *Domain) openDirect(ctx context.Context, m qemu.RAMMap) (hv.Memory, error) {
	if !d.conn.target.local {
		return nil, fmt.Errorf("%w: %s may be on another host; direct needs a unix socket", hv.ErrUnsupported, d.conn.URI())
	}
	return d.qemu.OpenDirect(ctx, m)
}

// peekMemory keeps a nil pointer out of the interface.
func (d *Domain) peekMemory(m qemu.RAMMap, why error) (hv.Memory, error) {
	p, err := d.openPeek(m, why)
	if err != nil {
		return nil, fmt.Errorf("peek at domain %q: %w", d.dom.Name, err)
	}
	return p, nil
}

// readable checks that the domain has memory that can be read and holds still
// enough for it, and returns where that memory is.
func (d *Domain) readable(ctx context.Context) (qemu.RAMMap, error) {
	if err := d.active(ctx); err != nil {
		return qemu.RAMMap{}, err
	}
	c, err := d.Config(ctx)
	if err != nil {
		return qemu.RAMMap{}, err
	}
	if err := c.Check(); err != nil {
		return qemu.RAMMap{}, fmt.Errorf("domain %q: %w", d.dom.Name, err)
	}
	if err := d.CheckJob(ctx); err != nil {
		return qemu.RAMMap{}, err
	}
	return d.qemu.RAMMap(ctx)
}
