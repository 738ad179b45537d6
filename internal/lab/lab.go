// Package lab runs guests for tests, scripts and demonstrations: lab images
// of Windows, a Linux, guests in firmware, and domains that are off, under the libvirt and QEMU
// of this machine, with TCG or, where it works, with KVM.
//
// It needs what scripts/deps.sh installs. Where there is no init system it
// starts libvirt's daemons itself and stops them again; those that ran before
// stay. Everything it makes is named snap-lab-NAME.
//
// It is for tests and for scripts/lab: nothing that ships imports it.
package lab

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
)

// Prefix begins the names of all domains that the lab makes.
const Prefix = "snap-lab-"

// Kind says whose libvirt a guest runs under.
type Kind string

// Kinds of connection.
const (
	System  Kind = "system"  // qemu:///system, QEMU as the user that libvirt's qemu.conf names
	Session Kind = "session" // qemu:///session of an ordinary user: SessionUser where root asks
	Private Kind = "private" // a session of SessionUser's with daemons of its own, which may be killed; only root has it
	OwnKVM  Kind = "kvm"     // a session of SessionUser's whose daemons and guests have a /dev/kvm of their own; without root, one's own session
)

// Backing is what the guest's RAM is on the host.
type Backing string

// Backings.
const (
	Anonymous Backing = "anon"    // private memory of the QEMU process
	Memfd     Backing = "memfd"   // a shared memfd
	HugeTLB   Backing = "hugetlb" // 2 MiB pages of hugetlbfs
	File      Backing = "file"    // a shared file, where libvirt keeps those
	// The same where what the guest writes is not in the file.
	PrivateMemfd Backing = "memfd-private"
	PrivateFile  Backing = "file-private"
)

var backings = []Backing{Anonymous, Memfd, HugeTLB, File, PrivateMemfd, PrivateFile}

// source is what libvirt calls it, and whether it is shared; both empty for memory
// that has no source of its own.
func (b Backing) source() (kind, access string) {
	switch b {
	case Memfd:
		return "memfd", "shared"
	case File:
		return "file", "shared"
	case PrivateMemfd:
		return "memfd", "private"
	case PrivateFile:
		return "file", "private"
	}
	return "", ""
}

// NewerQEMU is the QEMU from Debian's backports that scripts/deps.sh unpacks
// beside the installed one: at least 9.0, for what older ones can't do safely.
const NewerQEMU = "/var/lib/snap-lab/qemu-newer/qemu-system-x86_64"

// Spec says which guest to run. The zero value of a field means the default
// in brackets.
type Spec struct {
	Name      string // letters, digits, dots and dashes; the domain is Prefix+Name
	Accel     Accel  // [TCG]; KVM or TCG once the guest is up
	Connect   Kind   // [OwnKVM under KVM, else System]
	Profile   string // of ntlab [the first]
	MemoryMiB uint64 // [512]
	CPUs      int    // [4]
	Machine   string // "q35" or "i440fx" [q35]
	Backing   Backing
	NewerQEMU bool // run under NewerQEMU, not the installed one
	Seed      uint64
	PlainKDBG bool
	KPTI      bool
	LA57      bool      // page tables have 5 levels, which TCG's processors can
	UserMode  bool      // all processors but vCPU 0 are in user mode, in other processes than System
	Mode      boot.Mode // what the processors do [boot.Paced; under KVM boot.Busy]
	FillMiB   uint64    // of free memory that the guest fills before it is ready [0]
	Mix       boot.Mix
	// PublishHeader: the guest has a vmcoreinfo device and publishes a dump header by it,
	// as virtio-win's FwCfg driver does.
	PublishHeader bool
	Preserve      bool   // a guest that panics is preserved as it is, for which it has an ISA pvpanic device
	Watchdog      bool   // there is an ib700 watchdog, which pauses the guest
	Disk          string // path of a raw file that is the first ATA disk, of a machine i440fx; an error of it pauses the guest
	Advert        int    // entries, an even number, of a table of pages to leave out that a driver keeps changing [0: no such driver]
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,40}$`)

// complete fills in the defaults and checks what libvirt would not.
func (s *Spec) complete() error {
	if err := s.accelerate(); err != nil {
		return err
	}
	if s.Profile == "" {
		s.Profile = ntlab.Profiles()[0]
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = 512
	}
	if s.CPUs == 0 {
		s.CPUs = 4
	}
	if s.Machine == "" {
		s.Machine = "q35"
	}
	if s.Backing == "" {
		s.Backing = Anonymous
	}
	if s.Accel == KVM && s.Mode == boot.Paced {
		s.Mode = boot.Busy // under kvm_pvm the timer's NMI doesn't end a halt
	}
	switch {
	case !nameRE.MatchString(s.Name):
		return fmt.Errorf("name %q: only letters, digits, dots and dashes, at most 41", s.Name)
	case s.Machine != "q35" && s.Machine != "i440fx":
		return fmt.Errorf("machine %q is neither q35 nor i440fx", s.Machine)
	case !slices.Contains(backings, s.Backing):
		return fmt.Errorf("backing %q is none of %v", s.Backing, backings)
	case s.LA57 && s.Accel == KVM:
		return errors.New("5-level paging is not among what guests under KVM have here")
	case s.Disk != "" && s.Machine != "i440fx":
		return fmt.Errorf("a disk needs machine i440fx, not %s", s.Machine)
	case s.MemoryMiB < 64 || s.MemoryMiB > 1<<20:
		return fmt.Errorf("memory of %d MiB is not between 64 MiB and 1 TiB", s.MemoryMiB)
	}
	return nil
}

// errMissing is the class of failures that scripts/deps.sh mends.
var errMissing = errors.New("run scripts/deps.sh as root to install it")
