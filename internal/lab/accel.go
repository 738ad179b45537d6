package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Accel says what runs a guest's processors.
type Accel string

// Accelerators.
const (
	TCG Accel = "tcg" // QEMU itself
	KVM Accel = "kvm" // the host's kernel; the guest is then on connection OwnKVM
	// WhereKVM is KVM on a host where that works, and TCG on one where it doesn't.
	WhereKVM Accel = "auto"
)

// kvmDevice is the node that QEMU and libvirt open, under just this name.
const kvmDevice = "/dev/kvm"

// Requests of kvmDevice and the only version of its interface (Linux
// include/uapi/linux/kvm.h, Documentation/virt/kvm/api.rst 4.1, 4.2).
const (
	kvmGetAPIVersion = 0xAE00
	kvmCreateVM      = 0xAE01
	kvmAPIVersion    = 12
)

// KVMWorks returns why this process can't run a guest under KVM, and nil if it can,
// which it finds by making an empty machine.
func KVMWorks() error { return kvmWorks(kvmDevice) }

func kvmWorks(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	version, err := ioctl(f, kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("%s: KVM_GET_API_VERSION: %w", device, err)
	}
	if version != kvmAPIVersion {
		return fmt.Errorf("%s: version %d of its interface; want %d", device, version, kvmAPIVersion)
	}
	machine, err := ioctl(f, kvmCreateVM)
	if err != nil {
		return fmt.Errorf("%s: KVM_CREATE_VM: %w", device, err)
	}
	return unix.Close(int(machine))
}

// ioctl makes a request whose argument is 0.
func ioctl(f *os.File, request uintptr) (uintptr, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		default:
			return r, nil
		}
	}
}

// Accelerator is what WhereKVM means on this host, and why, for people.
func Accelerator() (Accel, string) {
	if err := KVMWorks(); err != nil {
		return TCG, "tcg: " + err.Error()
	}
	modules, _ := filepath.Glob("/sys/module/kvm_*") // none where it is a part of the kernel
	for i, m := range modules {
		modules[i] = filepath.Base(m)
	}
	if len(modules) == 0 {
		return KVM, "kvm"
	}
	return KVM, "kvm (" + strings.Join(modules, ", ") + ")"
}

// accelerate says what WhereKVM is, and which connection the guest is on.
func (s *Spec) accelerate() error {
	if s.Accel == WhereKVM {
		s.Accel, _ = Accelerator()
	}
	switch {
	case s.Accel == "":
		s.Accel = TCG
	case s.Accel != TCG && s.Accel != KVM:
		return fmt.Errorf("accelerator %q is none of tcg, kvm and auto", s.Accel)
	}
	if s.Connect == "" {
		s.Connect = map[Accel]Kind{TCG: System, KVM: OwnKVM}[s.Accel]
	}
	switch {
	case (s.Accel == KVM) != (s.Connect == OwnKVM):
		return fmt.Errorf("a guest under %s can't be on connection %s: those under kvm, and no others, are on %s", s.Accel, s.Connect, OwnKVM)
	case s.Accel != KVM:
		return nil
	}
	if err := KVMWorks(); err != nil {
		return errors.Join(errNoKVM, err)
	}
	return nil
}

// errNoKVM says that a guest can't be under KVM here.
var errNoKVM = errors.New("KVM doesn't work on this host")
