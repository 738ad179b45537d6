package lab

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"snap/internal/ntlab/boot"
)

// linuxKernel is where scripts/deps.sh puts a Debian kernel.
const linuxKernel = "/var/lib/snap-lab/linux/vmlinuz"

// linuxInit is init.asm.
//
//go:embed init.bin
var linuxInit []byte

// UpLinux starts a guest that is not Windows: Debian's kernel with an init
// that sleeps. Only the parts of s that any machine has count.
func UpLinux(ctx context.Context, s Spec) (*Guest, error) {
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	if _, err := os.Stat(linuxKernel); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab guest %s: no kernel %s: %w", s.Name, linuxKernel, errMissing)
	}
	g, err := prepare(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, err)
	}
	// libvirt gives what a guest boots from to QEMU's user, so each guest has
	// files of its own.
	f := files{
		kernel: filepath.Join(g.dir, "vmlinuz"), initrd: filepath.Join(g.dir, "initrd"),
		cmdline: "console=ttyS0 quiet panic=-1",
	}
	kernel, err := os.ReadFile(linuxKernel)
	if err == nil {
		err = errors.Join(writeReadable(f.kernel, kernel), writeReadable(f.initrd, initramfs()))
	}
	if err == nil {
		err = g.start(ctx, f, boot.ReadyLine)
	}
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, errors.Join(err, g.Down()))
	}
	return g, nil
}

// initramfs returns a cpio archive with /init and the console that it writes
// to (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
func initramfs() []byte {
	var b bytes.Buffer
	add := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", 0o040755, 0, 0, nil)
	add("dev/console", 0o020600, 5, 1, nil)
	add("init", 0o100755, 0, 0, linuxInit)
	add("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}
