package libvirt

import (
	"context"
	"fmt"

	"snap/hv"
)

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
			return nil, fmt.Errorf("open memory of domain %q: %w", d.dom.Name, ended(ctx))
		}
		return d.peekMemory(m, err)
	}
	return nil, fmt.Errorf("open memory of domain %q: mechanism %q: %w", d.dom.Name, how, hv.ErrUnsupported)
}

// peekMemory keeps a nil pointer out of the interface.
func (d *Domain) peekMemory(m ramMap, why error) (hv.Memory, error) {
	p, err := d.openPeek(m, why)
	if err != nil {
		return nil, fmt.Errorf("peek at domain %q: %w", d.dom.Name, err)
	}
	return p, nil
}

// readable checks that the domain has memory that can be read and holds still
// enough for it, and returns where that memory is.
func (d *Domain) readable(ctx context.Context) (ramMap, error) {
	if err := d.active(ctx); err != nil {
		return ramMap{}, err
	}
	c, err := d.Config(ctx)
	if err != nil {
		return ramMap{}, err
	}
	if err := c.Check(); err != nil {
		return ramMap{}, fmt.Errorf("domain %q: %w", d.dom.Name, err)
	}
	if err := d.CheckJob(ctx); err != nil {
		return ramMap{}, err
	}
	return d.ramMap(ctx)
}
