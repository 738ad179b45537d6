package lab

import (
	"libvirt.org/go/libvirtxml"
)

// files are what a domain boots from and writes to, on the host.
type files struct {
	kernel, initrd, cmdline string
	firmware                string // other than the machine's own
	serial                  string // what comes out of the first serial port
}

// domainXML describes a domain of the lab: no disk, network, display or
// balloon, and gone when it powers off, reboots or crashes, unless s wants it.
func domainXML(s *Spec, f files) (string, error) {
	machine := map[string]string{"q35": "q35", "i440fx": "pc"}[s.Machine]
	port := uint(0)
	d := libvirtxml.Domain{
		Type:   map[Accel]string{TCG: "qemu", KVM: "kvm"}[s.Accel],
		Name:   Prefix + s.Name,
		Memory: &libvirtxml.DomainMemory{Value: uint(s.MemoryMiB), Unit: "MiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: uint(s.CPUs)},
		OS: &libvirtxml.DomainOS{
			Type:   &libvirtxml.DomainOSType{Arch: "x86_64", Machine: machine, Type: "hvm"},
			Kernel: f.kernel, Initrd: f.initrd, Cmdline: f.cmdline,
		},
		CPU: processors(s),
		Features: &libvirtxml.DomainFeatureList{
			ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{},
		},
		OnPoweroff: "destroy", OnReboot: "destroy", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Controllers: []libvirtxml.DomainController{{Type: "usb", Model: "none"}},
			Serials: []libvirtxml.DomainSerial{{
				Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: f.serial}},
				Target: &libvirtxml.DomainSerialTarget{Port: &port},
			}},
			Videos:     []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "none"}}},
			MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		},
	}
	if s.PublishHeader {
		d.Features.VMCoreInfo = &libvirtxml.DomainFeatureState{State: "on"}
	}
	if f.firmware != "" {
		d.OS.Loader = &libvirtxml.DomainLoader{Path: f.firmware, Type: "rom"}
	}
	if s.NewerQEMU {
		d.Devices.Emulator = NewerQEMU
	}
	addStops(&d, s)
	if kind, access := s.Backing.source(); kind != "" {
		d.MemoryBacking = &libvirtxml.DomainMemoryBacking{
			MemorySource: &libvirtxml.DomainMemorySource{Type: kind},
			MemoryAccess: &libvirtxml.DomainMemoryAccess{Mode: access},
		}
	}
	if s.Backing == HugeTLB {
		d.MemoryBacking = &libvirtxml.DomainMemoryBacking{
			MemoryHugePages: &libvirtxml.DomainMemoryHugepages{},
		}
	}
	return d.Marshal()
}

// processors describes them. In one socket, their local APIC ids are their indexes.
func processors(s *Spec) *libvirtxml.DomainCPU {
	c := &libvirtxml.DomainCPU{
		Mode:     "maximum",
		Topology: &libvirtxml.DomainCPUTopology{Sockets: 1, Dies: 1, Cores: s.CPUs, Threads: 1},
	}
	if s.Accel == KVM {
		// Of the host's own processor QEMU wants MSRs that not every KVM has.
		c.Mode, c.Match, c.Check = "custom", "exact", "none"
		c.Model = &libvirtxml.DomainCPUModel{Fallback: "allow", Value: "qemu64"}
	}
	return c
}

// addStops adds the devices by which a guest can stop itself.
func addStops(d *libvirtxml.Domain, s *Spec) {
	if s.Preserve {
		d.OnCrash = "preserve"
		d.Devices.Panics = []libvirtxml.DomainPanic{{Model: "isa"}}
	}
	if s.Watchdog {
		d.Devices.Watchdogs = []libvirtxml.DomainWatchdog{{Model: "ib700", Action: "pause"}}
	}
	if s.Disk != "" {
		d.Devices.Disks = []libvirtxml.DomainDisk{{
			Device: "disk",
			Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw", Cache: "none", ErrorPolicy: "stop"},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.Disk}},
			Target: &libvirtxml.DomainDiskTarget{Dev: "hda", Bus: "ide"},
		}}
	}
}
