package libvirt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

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

func TestForeignArguments(t *testing.T) {
	tests := []struct {
		args []string
		want bool
	}{
		{[]string{"-name", "guest=vfio-test", "-device", `{"driver":"virtio-net-pci"}`}, false},
		{[]string{"-device", `{"driver":"vfio-pci","host":"0000:01:00.0"}`}, true},
		{[]string{"-netdev", "vhost-user,id=n,chardev=c"}, true},
		{[]string{"-device", "vhost-user-fs-pci,chardev=c"}, true},
		{[]string{"-netdev", `{"type":"vhost-vdpa"}`}, true},
		{[]string{"-device"}, false},
		{nil, false},
	}
	for _, tt := range tests {
		proc := fstest.MapFS{"cmdline": {Data: []byte("qemu\x00" + strings.Join(tt.args, "\x00") + "\x00")}}
		if got, err := foreignArguments(proc); err != nil || (got != "") != tt.want {
			t.Errorf("foreignArguments(%q) = %q, %v; want a reason: %v", tt.args, got, err, tt.want)
		}
	}
}

func TestLostStdin(t *testing.T) {
	for to, want := range map[string]bool{"/dev/null": false, "/var/lib/disk.img": true, "socket:[1]": true, "": true} {
		proc := fstest.MapFS{"fd/1": {Data: []byte("/dev/null"), Mode: fs.ModeSymlink}}
		if to != "" {
			proc["fd/0"] = &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink}
		}
		if got, err := lostStdin(proc); err != nil || (got != "") != want {
			t.Errorf("lostStdin(descriptor 0 is %q) = %q, %v; want a reason: %v", to, got, err, want)
		}
	}
}

func TestNoUserfaultfd(t *testing.T) {
	status := func(uid, capabilities string) string {
		return "Name:\tqemu\nUid:\t" + uid + "\t" + uid + "\t" + uid + "\t" + uid + "\nGid:\t9\t9\t9\t9\nGroups:\t9 108 \nCapEff:\t" + capabilities + "\n"
	}
	const none, ptrace = "0000000000000000", "0000000000080000"
	tests := []struct {
		name, sysctl, status string
		want                 bool
	}{
		{"forbidden", "0\n", status("64055", none), true},
		{"sysctl", "1\n", status("64055", none), false},
		{"capability", "0\n", status("64055", ptrace), false},
		{"root without it", "0\n", status("0", none), true},
	}
	for _, tt := range tests {
		host := fstest.MapFS{"sys/vm/unprivileged_userfaultfd": {Data: []byte(tt.sysctl)}}
		if got, err := noUserfaultfd(host, fstest.MapFS{"status": {Data: []byte(tt.status)}}); err != nil || (got != "") != tt.want {
			t.Errorf("%s: noUserfaultfd() = %q, %v; want a reason: %v", tt.name, got, err, tt.want)
		}
	}
	for _, text := range []string{"", "Uid:\t1\nGid:\t9\t9\t9\t9\nGroups:\t\nCapEff:\t0\n", strings.Replace(status("1", none), "CapEff", "CapPrm", 1), status("x", none)} {
		if c, err := parseCredentials([]byte(text)); err == nil {
			t.Errorf("parseCredentials(%q) = %+v; want an error", text, c)
		}
	}
}

// TestOddity: one of them is enough, and so is what can't be looked at.
func TestOddity(t *testing.T) {
	const sysctl = "sys/vm/unprivileged_userfaultfd"
	sound := func() (host, proc fstest.MapFS) {
		return fstest.MapFS{sysctl: {Data: []byte("1\n")}}, fstest.MapFS{
			"cmdline": {Data: []byte("qemu\x00")}, "fd/0": {Data: []byte("/dev/null"), Mode: fs.ModeSymlink},
		}
	}
	tests := []struct {
		name     string
		spoil    func(host, proc fstest.MapFS)
		why, err bool
	}{
		{"sound", func(_, _ fstest.MapFS) {}, false, false},
		{"device", func(_, proc fstest.MapFS) { proc["cmdline"].Data = []byte("qemu\x00-device\x00vfio-pci") }, true, false},
		{"stdin", func(_, proc fstest.MapFS) { delete(proc, "fd/0") }, true, false},
		{"userfaultfd", func(host, proc fstest.MapFS) {
			host[sysctl].Data = []byte("0\n")
			proc["status"] = &fstest.MapFile{Data: []byte("Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t\nCapEff:\t0\n")}
		}, true, false},
		{"no arguments", func(_, proc fstest.MapFS) { delete(proc, "cmdline") }, false, true},
		{"no status", func(host, _ fstest.MapFS) { host[sysctl].Data = []byte("0\n") }, false, true},
	}
	for _, tt := range tests {
		host, proc := sound()
		tt.spoil(host, proc)
		if why, err := oddity(host, proc); (why != "") != tt.why || (err != nil) != tt.err {
			t.Errorf("%s: oddity() = %q, %v; want a reason: %v, an error: %v", tt.name, why, err, tt.why, tt.err)
		}
	}
}

// TestUserfaultfdDevice: the device lets QEMU too, if QEMU may open it.
func TestUserfaultfdDevice(t *testing.T) {
	host := fstest.MapFS{"sys/vm/unprivileged_userfaultfd": {Data: []byte("0\n")}}
	dir := t.TempDir()
	device := filepath.Join(dir, "root", "dev", "userfaultfd")
	if err := os.MkdirAll(filepath.Dir(device), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	own, group := os.Getuid(), os.Getgid()
	tests := []struct {
		uid, gid int
		mode     fs.FileMode
		want     bool
	}{
		{own, group, 0o600, false},
		{own, group, 0o400, true},
		{own + 1, group, 0o060, false},
		{own + 1, group, 0o600, true},
		{own + 1, group + 1, 0o660, true},
		{own + 1, group + 1, 0o006, false},
	}
	for _, tt := range tests {
		status := fmt.Sprintf("Uid:\t1\t%d\t1\t1\nGid:\t1000000\t1000000\t1000000\t1000000\nGroups:\t%d \nCapEff:\t0\n", tt.uid, tt.gid)
		if err := errors.Join(os.Chmod(device, tt.mode), os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, err := noUserfaultfd(host, os.DirFS(dir)); err != nil || (got != "") != tt.want {
			t.Errorf("noUserfaultfd(mode %v, %+v) = %q, %v; want a reason: %v", tt.mode, tt, got, err, tt.want)
		}
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
