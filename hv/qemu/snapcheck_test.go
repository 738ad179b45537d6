package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

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
