package libvirt

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"snap/hv"
)

// Config is what matters to a dump of a domain's configuration.
type Config struct {
	Memory         uint64   // bytes at start, hot-plugged devices included
	CPUs           int      // online
	Arch           string   // e.g. x86_64
	Machine        string   // e.g. pc-q35-7.2
	Backing        string   // anonymous, memfd, file or hugepages
	Shared         bool     // other processes may map the memory
	LaunchSecurity string   // sev, sev-snp, s390-pv or tdx; empty if none
	Firmware       string   // path of the OS loader, empty for the default BIOS
	VMCoreInfo     bool     // the vmcoreinfo device is there
	VirtioMem      bool     // there is memory that the guest plugs by itself
	MemoryDevices  []string // models of memory that is a device
	Foreign        []string // devices that write guest memory without QEMU
	Leases         bool     // it holds leases of a lock manager
	Warnings       []string // what can make a dump less consistent or complete
}

// Check fails with hv.ErrConfidential or hv.ErrUnsupported if no dump of the
// guest can be of use.
func (c Config) Check() error {
	if c.LaunchSecurity != "" {
		return fmt.Errorf("launch security %s encrypts the guest's memory: %w", c.LaunchSecurity, hv.ErrConfidential)
	}
	if c.Arch != "x86_64" {
		return fmt.Errorf("architecture %s: %w: only x86_64 guests can be read", c.Arch, hv.ErrUnsupported)
	}
	return nil
}

// parseConfig reads a domain's XML.
func parseConfig(text string) (Config, error) {
	var c Config
	var err error
	if c.LaunchSecurity, err = launchSecurity(text); err != nil {
		return Config{}, fmt.Errorf("domain XML: %w: %w", hv.ErrNotUnderstood, err)
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		if c.LaunchSecurity != "" {
			return c, nil // of a kind that the library doesn't know; nothing else counts then
		}
		return Config{}, fmt.Errorf("domain XML: %w: %w", hv.ErrNotUnderstood, err)
	}
	if x.Memory != nil {
		unit, err := unitBytes(x.Memory.Unit)
		if err != nil {
			return Config{}, fmt.Errorf("domain XML: %w: %w", hv.ErrNotUnderstood, err)
		}
		c.Memory = uint64(x.Memory.Value) * unit
	}
	if x.VCPU != nil {
		c.CPUs = int(x.VCPU.Value)
		if x.VCPU.Current != 0 {
			c.CPUs = int(x.VCPU.Current)
		}
	}
	if x.OS != nil {
		if x.OS.Type != nil {
			c.Arch, c.Machine = x.OS.Type.Arch, x.OS.Type.Machine
		}
		if x.OS.Loader != nil {
			c.Firmware = x.OS.Loader.Path
		}
	}
	if f := x.Features; f != nil && f.VMCoreInfo != nil {
		c.VMCoreInfo = f.VMCoreInfo.State != "off"
	}
	c.Backing, c.Shared = backing(&x)
	if x.Devices != nil {
		c.readDevices(x.Devices)
	}
	return c, nil
}

// unitBytes returns the size of a memory unit. The daemon itself always writes KiB
// (virDomainDefFormat in src/conf/domain_conf.c).
func unitBytes(unit string) (uint64, error) {
	switch unit {
	case "b", "bytes":
		return 1, nil
	case "", "KiB", "k":
		return 1 << 10, nil
	case "MiB", "M":
		return 1 << 20, nil
	case "GiB", "G":
		return 1 << 30, nil
	}
	return 0, fmt.Errorf("unknown memory unit %q", unit)
}

// launchSecurity returns the type of the domain's memory encryption, empty if it
// has none.
func launchSecurity(text string) (string, error) {
	var x struct {
		LaunchSecurity *struct {
			Type string `xml:"type,attr"`
		} `xml:"launchSecurity"`
	}
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return "", err
	}
	switch {
	case x.LaunchSecurity == nil:
		return "", nil
	case x.LaunchSecurity.Type == "":
		return "of an unnamed kind", nil
	}
	return x.LaunchSecurity.Type, nil
}

// backing returns where the guest's memory comes from. It is the
// configuration's word; direct access goes by what the process maps.
func backing(x *libvirtxml.Domain) (kind string, shared bool) {
	kind = "anonymous"
	if b := x.MemoryBacking; b != nil {
		if b.MemorySource != nil && b.MemorySource.Type != "" {
			kind = b.MemorySource.Type
		}
		if b.MemoryHugePages != nil {
			kind = "hugepages"
		}
		shared = b.MemoryAccess != nil && b.MemoryAccess.Mode == "shared"
	}
	if x.CPU != nil && x.CPU.Numa != nil {
		for _, cell := range x.CPU.Numa.Cell {
			shared = shared || cell.MemAccess == "shared"
		}
	}
	return kind, shared
}

// readDevices looks for devices that write guest memory from outside of QEMU, or
// that are memory.
func (c *Config) readDevices(d *libvirtxml.DomainDeviceList) {
	passed, vhost := passedThrough(d), vhostUser(d)
	if passed {
		c.warn("a host device is passed through: its DMA goes on while the guest is paused")
		c.Foreign = append(c.Foreign, "a host device is passed through")
	}
	if len(vhost) > 0 {
		devices := "vhost-user devices (" + strings.Join(vhost, ", ") + ")"
		c.warn(devices + " write guest memory from processes of their own: a dump without a pause may be torn there")
		c.Foreign = append(c.Foreign, devices)
	}
	c.Leases = len(d.Leases) > 0
	for _, m := range d.Memorydevs {
		if m.Model != "dimm" {
			c.MemoryDevices = append(c.MemoryDevices, m.Model)
		}
		switch m.Model {
		case "virtio-mem":
			c.VirtioMem = true
		case "nvdimm", "virtio-pmem":
			c.warn("persistent memory (" + m.Model + ") is not part of a dump")
		}
	}
}

// passedThrough reports whether hardware writes guest memory.
func passedThrough(d *libvirtxml.DomainDeviceList) bool {
	for _, h := range d.Hostdevs {
		if h.SubsysPCI != nil || h.SubsysMDev != nil {
			return true
		}
	}
	for _, i := range d.Interfaces {
		if i.Source != nil && (i.Source.Hostdev != nil || i.Source.VDPA != nil) {
			return true
		}
	}
	for _, disk := range d.Disks {
		if disk.Source != nil && disk.Source.VHostVDPA != nil {
			return true
		}
	}
	return false
}

// vhostUser returns the kinds of devices that other processes serve out of guest
// memory.
func vhostUser(d *libvirtxml.DomainDeviceList) []string {
	var kinds []string
	for _, i := range d.Interfaces {
		if i.Source != nil && i.Source.VHostUser != nil {
			kinds = append(kinds, "interface")
		}
	}
	for _, disk := range d.Disks {
		if disk.Source != nil && disk.Source.VHostUser != nil {
			kinds = append(kinds, "disk")
		}
	}
	for _, f := range d.Filesystems {
		if f.Driver != nil && f.Driver.Type == "virtiofs" {
			kinds = append(kinds, "file system")
		}
	}
	for _, v := range d.Videos {
		if v.Driver != nil && v.Driver.Name == "vhostuser" {
			kinds = append(kinds, "video")
		}
	}
	return kinds
}

func (c *Config) warn(text string) { c.Warnings = append(c.Warnings, text) }
