package libvirt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/hv"
)

func TestConfigWhyNoSnapshot(t *testing.T) {
	const head = `<domain type='qemu'><name>guest</name><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>`
	tests := []struct{ name, xml, want string }{
		{"plain", `<devices><interface type='network'/><disk type='file'/></devices>`, ""},
		{"DIMM", `<devices><memory model='dimm'/></devices>`, ""},
		{"memfd", `<memoryBacking><source type='memfd'/></memoryBacking>`, "memory is memfd"},
		{"huge pages", `<memoryBacking><hugepages/></memoryBacking>`, "memory is hugepages"},
		{"shared", `<memoryBacking><access mode='shared'/></memoryBacking>`, "private anonymous"},
		{"PCI device", `<devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0' bus='0x1' slot='0x0' function='0x0'/></source></hostdev></devices>`, "passed through"},
		{"SR-IOV", `<devices><interface type='hostdev'><source><address type='pci' domain='0x0' bus='0x1' slot='0x0' function='0x0'/></source></interface></devices>`, "passed through"},
		{"vDPA", `<devices><interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface></devices>`, "passed through"},
		{"vhost-user interface", `<devices><interface type='vhostuser'><source type='unix' path='/x' mode='server'/></interface></devices>`, "(interface)"},
		{"vhost-user disk", `<devices><disk type='vhostuser' device='disk'><source type='unix' path='/x'/></disk></devices>`, "(disk)"},
		{"virtiofs", `<devices><filesystem type='mount'><driver type='virtiofs'/></filesystem></devices>`, "(file system)"},
		{"vhost-user video", `<devices><video><driver name='vhostuser'/></video></devices>`, "(video)"},
		{"virtio-mem", `<devices><memory model='virtio-mem'/></devices>`, "virtio-mem"},
		{"NVDIMM", `<devices><memory model='nvdimm'/></devices>`, "nvdimm"},
		{"lease", `<devices><lease><lockspace>a</lockspace><key>b</key></lease></devices>`, "leases"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseConfig(head + tt.xml + `</domain>`)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.whyNoSnapshot(); !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
				t.Errorf("whyNoSnapshot() = %q; want %q in it", got, tt.want)
			}
		})
	}
}

// snapshotPeer is a peer whose QEMU could be asked for a snapshot, as far as the
// monitor and the daemon tell.
func snapshotPeer(t *testing.T) (*peer, *Domain) {
	p := newPeer(t)
	p.monitor[`{"execute":"query-version"}`] = `{"return":{"qemu":{"major":9,"minor":0,"micro":0}}}`
	p.monitor[`{"execute":"query-memdev"}`] = `{"return":[{"id":"pc.ram","share":false}]}`
	p.monitor[`{"execute":"query-migrate"}`] = `{"return":{}}`
	p.monitor[`{"execute":"query-migrate-capabilities"}`] = `{"return":[{"capability":"background-snapshot","state":false}]}`
	p.monitor[`{"execute":"query-cpus-fast"}`] = `{"return":[]}`
	return p, p.domain()
}

// TestCheckSnapshotRefuses: each of these alone is a reason, and QEMU is asked
// nothing that would change it.
func TestCheckSnapshotRefuses(t *testing.T) {
	tests := []struct {
		name string
		set  func(*peer)
		want string
		is   error
	}{
		{"old QEMU", func(p *peer) {
			p.monitor[`{"execute":"query-version"}`] = `{"return":{"qemu":{"major":8,"minor":2,"micro":9}}}`
		}, "QEMU 8.2.9", hv.ErrUnsupported},
		{"paused", func(p *peer) { p.state = statePaused; p.reason = pausedByUser }, "the guest is paused", hv.ErrUnsupported},
		{"job", func(p *peer) { p.job = 2 }, "goes on", hv.ErrBusy},
		{"memfd", func(p *peer) {
			p.xml = strings.Replace(p.xml, "<os>", "<memoryBacking><source type='memfd'/></memoryBacking><os>", 1)
		}, "memfd", hv.ErrUnsupported},
		{"shared backend", func(p *peer) {
			p.monitor[`{"execute":"query-memdev"}`] = `{"return":[{"id":"pc.ram","share":false},{"id":"dimm0","share":true}]}`
		}, "dimm0 is shared", hv.ErrUnsupported},
		{"migration", func(p *peer) { p.monitor[`{"execute":"query-migrate"}`] = `{"return":{"status":"active"}}` }, "state active", hv.ErrBusy},
		{"device that can't be saved", func(p *peer) {
			p.monitor[`{"execute":"query-migrate"}`] = `{"return":{"blocked-reasons":["State blocked by non-migratable device '0000:00:02.0/nvme'"]}}`
		}, "02.0/nvme", hv.ErrUnsupported},
		{"capability on", func(p *peer) {
			p.monitor[`{"execute":"query-migrate-capabilities"}`] = `{"return":[{"capability":"background-snapshot","state":true}]}`
		}, "capability is on", hv.ErrUnsupported},
		{"no capability", func(p *peer) {
			p.monitor[`{"execute":"query-migrate-capabilities"}`] = `{"return":[{"capability":"xbzrle","state":false}]}`
		}, "knows no background snapshots", hv.ErrUnsupported},
		{"no process here", func(*peer) {}, "no processors", hv.ErrUnsupported}, // the last check that it comes to
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, d := snapshotPeer(t)
			p.mu.Lock()
			tt.set(p)
			p.mu.Unlock()
			p.on(procMonitor, func(_ int, args []byte) *answer {
				if _, rest := xdrString(args); strings.Contains(string(rest), "set-cap") || strings.Contains(string(rest), `"migrate"`) {
					t.Errorf("QEMU was told %q", rest[16+4+4:])
				}
				return nil
			})
			for what, err := range map[string]error{
				"CheckSnapshot": d.CheckSnapshot(t.Context()),
				"Snapshot":      func() error { _, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Room: 1 << 40}); return err }(),
			} {
				if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s() = %v; want %v with %q in it", what, err, tt.is, tt.want)
				}
			}
		})
	}
}

func TestLockManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qemu.conf")
	if got := lockManagerIn(path); got != "" {
		t.Errorf("lockManagerIn(no file) = %q; want none", got)
	}
	for text, want := range map[string]bool{
		"#lock_manager = \"lockd\"\n":                   false,
		"user = \"root\"\n  lock_manager=\"sanlock\"\n": true,
		"lock_manager = \"nop\"\n":                      false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lockManagerIn(path); (got != "") != want {
			t.Errorf("lockManagerIn(%q) = %q; want one: %v", text, got, want)
		}
	}
	if got := lockManagerIn(t.TempDir()); got == "" {
		t.Error("lockManagerIn(what can't be read) = none; want that it can't be told")
	}
}
