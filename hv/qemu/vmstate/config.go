package vmstate

import (
	"slices"
	"strings"

	"snap/phys"
)

// Subsections of the configuration (QEMU: migration/savevm.c).
const (
	configPageBits     = "configuration/target-page-bits"
	configCapabilities = "configuration/capabilities"
	configUUID         = "configuration/uuid"

	uuidSize = 16
	// maxName bounds the machine type, whose length is given in 32 bits.
	maxName = 255
	// maxCapabilities is several times what QEMU knows.
	maxCapabilities = 256
)

// configuration reads the configuration section and returns the machine type.
func (c *cursor) configuration() (string, error) {
	at := c.pos
	t, err := c.u8("configuration")
	if err != nil {
		return "", err
	}
	if t != sectionConfiguration {
		return "", c.errorf(at, "section of type %#02x; want the configuration", t)
	}
	n, err := c.be32("length of the machine type")
	if err != nil {
		return "", err
	}
	if n == 0 || n > maxName {
		return "", c.errorf(at, "machine type of %d bytes; want 1 to %d", n, maxName)
	}
	machine, err := c.next(int(n), "machine type")
	if err != nil {
		return "", err
	}
	var seen []string
	for c.rest() > 0 && c.b[c.pos] == sectionSubsection {
		at := c.pos
		c.pos++
		name, err := c.name("subsection of the configuration")
		if err != nil {
			return "", err
		}
		if slices.Contains(seen, name) {
			return "", c.errorf(at, "subsection %q is there twice", name)
		}
		seen = append(seen, name)
		if err := c.configSubsection(at, name); err != nil {
			return "", err
		}
	}
	return string(machine), nil
}

func (c *cursor) configSubsection(at int, name string) error {
	if _, err := c.be32("version of a subsection"); err != nil {
		return err
	}
	switch name {
	case configPageBits:
		bits, err := c.be32(name)
		if err == nil && bits != phys.PageShift {
			err = c.errorf(at, "pages of 2^%d bytes; want 2^%d", bits, phys.PageShift)
		}
		return err
	case configUUID:
		_, err := c.next(uuidSize, name)
		return err
	case configCapabilities:
		return c.capabilities(at)
	}
	return c.errorf(at, "unknown subsection %q of the configuration", name)
}

// capabilities refuses all: QEMU lists those that make another format, such as
// x-ignore-shared (RAM is left out) and mapped-ram (RAM is elsewhere in the file).
func (c *cursor) capabilities(at int) error {
	n, err := c.be32("number of capabilities")
	if err != nil {
		return err
	}
	if n > maxCapabilities {
		return c.errorf(at, "%d capabilities; want at most %d", n, maxCapabilities)
	}
	var names []string
	for range n {
		name, err := c.name("capability")
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		return c.errorf(at, "saved with %s, which changes the format", strings.Join(names, " and "))
	}
	return nil
}
