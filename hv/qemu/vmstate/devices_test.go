package vmstate

import (
	"fmt"

	"snap/phys"
)

// ParseDevices reads what QMP xen-save-devices-state writes and returns the
// processors by QEMU's index, ascending. Nothing but zeros may follow. It is a
// second way to the processors that Parse is held against, in recordings of the
// same moment.
//
// snap doesn't ask QEMU for it: releases 7.2 and 10.0 crash where a device that
// can't be migrated has no fields to save, as nvme has none.
func ParseDevices(b []byte, o Options) ([]phys.Registers, error) {
	c := &cursor{b: b}
	if err := c.start(); err != nil {
		return nil, err
	}
	atEnd := func(c *cursor) bool {
		t, err := c.u8("type")
		return err == nil && t == sectionEOF && zero(c.b[c.pos:])
	}
	cpus := newCPUList(o)
	for n := 0; ; n++ {
		at := c.pos
		t, err := c.u8("section type")
		if err != nil {
			return nil, err
		}
		if t == sectionEOF {
			break
		}
		if t != sectionFull {
			return nil, c.wrongType(at, t)
		}
		if n == maxSections {
			return nil, fmt.Errorf("%w: offset %#x: more than %d sections", ErrLimit, at, maxSections)
		}
		h, err := c.header()
		if err != nil {
			return nil, err
		}
		least := 0
		if h.name == cpuName {
			least = cpuSize
		}
		body, err := c.skipToFooter(h, least, func(c *cursor) bool {
			full := *c
			return looksFull(&full) || atEnd(c)
		})
		if err != nil {
			return nil, err
		}
		if err := cpus.add(c, h, body); err != nil {
			return nil, err
		}
	}
	if !zero(c.b[c.pos:]) {
		return nil, c.errorf(c.pos, "data after the end of sections")
	}
	return cpus.finish(c)
}
