package libvirt

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, xml string
		want      Config
		warnings  int
	}{
		{
			"plain", `<domain type='kvm'><memory unit='KiB'>4194304</memory><vcpu placement='static' current='2'>8</vcpu>
<os><type arch='x86_64' machine='pc-q35-8.2'>hvm</type></os></domain>`,
			Config{Memory: 4 * gib, CPUs: 2, Arch: "x86_64", Machine: "pc-q35-8.2", Backing: "anonymous"},
			0,
		},
		{
			"UEFI on shared memfd", `<domain type='kvm'><memory unit='GiB'>2</memory><vcpu>4</vcpu>
<os><type arch='x86_64' machine='pc-q35-8.2'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader></os>
<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking><features><vmcoreinfo state='on'/></features></domain>`,
			Config{
				Memory: 2 * gib, CPUs: 4, Arch: "x86_64", Machine: "pc-q35-8.2", Backing: "memfd", Shared: true,
				Firmware: "/usr/share/OVMF/OVMF_CODE_4M.fd", VMCoreInfo: true,
			},
			0,
		},
		{
			"hugepages, shared by a node", `<domain type='kvm'><memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><memoryBacking><hugepages/></memoryBacking>
<cpu><numa><cell id='0' cpus='0' memory='524288' unit='KiB' memAccess='shared'/></numa></cpu></domain>`,
			Config{Memory: 512 * mib, CPUs: 1, Arch: "x86_64", Machine: "pc", Backing: "hugepages", Shared: true},
			0,
		},
		{
			"devices that write memory", `<domain type='kvm'><memory unit='KiB'>1048576</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
<interface type='vhostuser'><source type='unix' path='/tmp/v' mode='server'/></interface>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/a'/><target dir='b'/></filesystem>
<memory model='virtio-mem'><target><size unit='KiB'>1048576</size></target></memory>
<memory model='nvdimm'><target><size unit='KiB'>1048576</size></target></memory></devices></domain>`,
			Config{
				Memory: gib, CPUs: 1, Arch: "x86_64", Machine: "pc", Backing: "anonymous", VirtioMem: true,
				MemoryDevices: []string{"virtio-mem", "nvdimm"},
				Foreign:       []string{"a host device is passed through", "vhost-user devices (interface, file system)"},
			},
			3,
		},
	}
	for _, tt := range tests {
		got, err := parseConfig(tt.xml)
		if err != nil {
			t.Errorf("parseConfig of %s failed: %v", tt.name, err)
			continue
		}
		if len(got.Warnings) != tt.warnings {
			t.Errorf("parseConfig of %s warns %q; want %d warnings", tt.name, got.Warnings, tt.warnings)
		}
		got.Warnings = nil
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("parseConfig of %s (-want +got):\n%s", tt.name, diff)
		}
	}
	for _, text := range []string{"", "<domain>", "<domain><memory unit='parsec'>1</memory></domain>"} {
		if c, err := parseConfig(text); err == nil {
			t.Errorf("parseConfig(%q) = %+v; want an error", text, c)
		}
	}
}
