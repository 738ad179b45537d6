// Package hv is what snap needs of a hypervisor: a guest's memory, its
// processors' registers, and a way to hold it still that always ends. It knows
// nothing of the operating system in the guest.
//
// The interfaces here are implemented by hv/libvirt for running domains and by
// hv/file for files that hold a guest.
package hv

import (
	"context"
	"errors"
	"time"

	"snap/phys"
)

// Classes of failure that callers act on; test with errors.Is.
var (
	// ErrNoDomain: no domain of that name, UUID or id on the connection.
	ErrNoDomain = errors.New("no such domain")
	// ErrNotRunning: the domain has no memory to read (shut off, crashed and
	// destroyed, or suspended to disk).
	ErrNotRunning = errors.New("domain is not running")
	// ErrDenied: authentication, ACL, ptrace or file permission.
	ErrDenied = errors.New("not allowed")
	// ErrBusy: the domain is migrating, being saved or being dumped.
	ErrBusy = errors.New("domain is busy")
	// ErrUnreachable: there is no way to the hypervisor's daemon, or no longer.
	ErrUnreachable = errors.New("the daemon can't be reached")
	// ErrConfidential: the guest's memory is encrypted (SEV, TDX).
	ErrConfidential = errors.New("confidential guest")
	// ErrUnsupported: the source or mode that was asked for can't work safely here.
	ErrUnsupported = errors.New("not possible here")
	// ErrStillPaused: the guest was paused by snap and could not be resumed.
	ErrStillPaused = errors.New("guest may still be paused")
	// ErrDisturbed: somebody else resumed the guest while it was to stand still,
	// so that what was read is not of one point in time.
	ErrDisturbed = errors.New("the guest was interfered with")
	// ErrFormat: a file is not of the kind it was said to be, or is damaged.
	ErrFormat = errors.New("damaged or unknown format")
)

// Identity says which guest a source belongs to, for names and reports.
type Identity struct {
	Name string // domain name, or the file's base name
	UUID string // empty for files
	ID   int    // the hypervisor's id of the running instance, 0 if none
	Host string // name of the host that runs the guest, as the hypervisor gives it
	URI  string // connection URI, empty for files
}

// Memory is a guest's memory through one mechanism.
type Memory interface {
	phys.Reader

	// Mechanism names how the memory is read ("direct", "peek", "elf-core", …).
	Mechanism() string

	// RAM returns the pages that are memory: never a hole, never MMIO.
	// Reads outside of it fail with phys.ErrNotRAM.
	RAM() phys.Runs

	// Populated returns the pages of RAM that can hold anything but zeros at
	// this moment; all others read as zero and need not be read. known is
	// false where the mechanism can't tell, and then the set is RAM.
	Populated(ctx context.Context) (set phys.Runs, known bool, err error)

	// Close releases the mechanism. Reads in flight end first.
	Close() error
}

// FallbackMemory is a Memory that MechanismAuto may have chosen because a faster
// one could not be opened.
type FallbackMemory interface {
	Memory

	// WhyNotDirect returns why the faster mechanism could not be used, nil if
	// this one was asked for.
	WhyNotDirect() error
}

// Source is a guest that can be read: a domain, or a file that holds one.
type Source interface {
	Identity() Identity

	// Registers returns the state of every processor, in the hypervisor's
	// order. A file that holds none returns an empty slice. While the guest
	// runs, each processor is sampled at a moment of its own.
	Registers(ctx context.Context) ([]phys.Registers, error)

	// OpenMemory opens the guest's memory. The caller closes it.
	OpenMemory(ctx context.Context, m Mechanism) (Memory, error)

	// Close releases the source; it resumes nothing.
	Close() error
}

// Mechanism chooses among a source's ways to read memory.
type Mechanism string

// Mechanisms of a running domain. Files know only MechanismAuto.
const (
	MechanismAuto   Mechanism = "auto"   // direct where it works, else peek
	MechanismDirect Mechanism = "direct" // the hypervisor process's memory on this host
	MechanismPeek   Mechanism = "peek"   // through the hypervisor's API
)

// Mechanisms returns all mechanisms, the default first.
func Mechanisms() []Mechanism {
	return []Mechanism{MechanismAuto, MechanismDirect, MechanismPeek}
}

// State is what a domain does right now.
type State string

// States of a domain.
const (
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateOff     State = "shut off"
	StateCrashed State = "crashed"
	StateAsleep  State = "suspended" // by the guest itself (S3)
	StateOther   State = "other"
)

// VM is a domain on a hypervisor.
type VM interface {
	Source

	// State asks the hypervisor what the domain does.
	State(ctx context.Context) (State, error)

	// Pause stops the guest's processors and returns what undoes just that.
	// A guest that is already paused stays so: its Hold does nothing.
	// When Pause returns an error the guest runs as before, unless
	// errors.Is(err, ErrStillPaused).
	Pause(ctx context.Context) (Hold, error)

	// RAM asks for the guest's RAM map as it is right now, without opening its
	// memory: it changes when memory is plugged or taken away.
	RAM(ctx context.Context) (phys.Runs, error)

	// CheckJob fails with ErrBusy while something else moves the guest's memory
	// or will resume it by itself (a migration, a save, a dump), and with
	// ErrNotRunning if there is no guest any more.
	CheckJob(ctx context.Context) error

	// Warnings returns what in the guest's configuration can make a dump of it
	// less consistent or less complete, as sentences for an operator. It changes
	// nothing.
	Warnings(ctx context.Context) ([]string, error)
}

// JobPauser is a VM that can be held still by a job of the hypervisor's own.
type JobPauser interface {
	VM

	// PauseByJob is Pause, by a job that ends with this process if not before: the
	// hypervisor then lets the guest go on. Suspends and resumes by others wait
	// for its end and are carried out then, so it is for a moment only. The error
	// is ErrUnsupported, and the guest runs as before, where it can't be done.
	PauseByJob(ctx context.Context) (Hold, error)
}

// Snapshotter is a VM whose memory of one moment can be had while it runs on.
type Snapshotter interface {
	VM

	// CheckSnapshot fails with ErrUnsupported, and says why, unless a snapshot
	// is known to do this guest on this host no harm. It changes nothing.
	CheckSnapshot(ctx context.Context) error

	// SnapshotSize returns how many bytes of the host's memory a snapshot takes
	// if so many pages of the guest can hold anything but zeros.
	SnapshotSize(ctx context.Context, populated uint64) (uint64, error)

	// Snapshot takes a snapshot, and fails as CheckSnapshot does, without
	// having changed anything, where it must not. When it returns, all that it
	// changed of the hypervisor is as it was, unless
	// errors.Is(err, ErrStillPaused). The caller closes what it returns.
	Snapshot(ctx context.Context, o SnapshotOptions) (Snapshot, error)
}

// SnapshotOptions say what a snapshot may take.
type SnapshotOptions struct {
	// Populated is how many pages can hold anything but zeros, as far as it is
	// known: memory for them is taken from the host before the snapshot begins.
	Populated uint64
	// Room is the most bytes of the host's memory that the snapshot may take. One
	// that would take more is given up.
	Room uint64
	// Progress, if it isn't nil, is called now and then with the bytes of the
	// guest's memory that are saved, of so many.
	Progress func(done, total uint64)
}

// Snapshot is a guest's memory and processors of one moment, kept on the host.
type Snapshot interface {
	Memory

	// Registers returns the state of every processor, in the hypervisor's order.
	Registers() []phys.Registers

	// Downtime is how long the guest stood still for it, as the hypervisor
	// reports.
	Downtime() time.Duration
}

// Hold keeps a guest paused.
type Hold interface {
	// Release resumes the guest if Pause stopped it, and returns how long it
	// stood still, 0 if it had been paused by somebody else. Later calls
	// return the first one's result. It works after the context of Pause has
	// ended and after the connection was lost; if the guest could not be
	// resumed, errors.Is(err, ErrStillPaused). If somebody else resumed the
	// guest meanwhile, errors.Is(err, ErrDisturbed).
	Release() (time.Duration, error)
}
