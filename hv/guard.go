package hv

import (
	"context"
	"fmt"
	"time"
)

// Reason is why a guest is held, or what of it.
type Reason string

// Reasons.
const (
	ForPause    Reason = "pause"    // it is paused (VM.Pause)
	ForJob      Reason = "job"      // a job of the hypervisor's holds it still (JobPauser)
	ForSnapshot Reason = "snapshot" // the hypervisor saves it while it runs (Snapshotter)
)

// Guardable is a VM of which another process can undo what was done to it, should
// this process die. A VM that ends with this process needn't be one.
type Guardable interface {
	VM

	// Watch begins to follow what happens to the VM. The caller closes the Watch.
	Watch(ctx context.Context) (Watch, error)

	// Guard has every later pause and snapshot stand under g: its Keeper knows of
	// it, and its Marker is on the VM, from before it until after it. A guest that
	// somebody else resumes meanwhile is left as it is, also one that somebody
	// else had paused: Release then fails with ErrDisturbed. Guard is called
	// before anything else uses the VM, and is not safe for concurrent use.
	Guard(g Guard)

	// Marker returns the marker that is on the VM, nil if there is none. What
	// stands in it was written by whoever may change the VM's configuration. The
	// error is ErrFormat if it is none of snap's.
	Marker(ctx context.Context) (*Marker, error)

	// ClearMarker removes the marker; there need not be one.
	ClearMarker(ctx context.Context) error

	// Undo undoes what a process that died did to the VM, or was about to do. There
	// need not be anything to undo, and the marker stays. did says in words what
	// was done, empty if nothing was. Undo tries through any number of lost
	// connections; how long it does is ctx's deadline. The error is
	//
	//   - ErrDisturbed if what keeps the guest still isn't the dead process's
	//     doing, or isn't any more: the guest was left as it is;
	//   - ErrNoDomain or ErrNotRunning if the guest is gone;
	//   - ErrStillPaused if the guest may still stand, or the hypervisor may still
	//     be at work on it.
	Undo(ctx context.Context, l Left) (did string, err error)
}

// Guard is what stands behind the pauses and snapshots of a VM.
type Guard struct {
	Keeper Keeper // undoes them in this process's stead

	// Marker is put on the VM meanwhile, with reason and time of what is done.
	Marker Marker

	// Watch tells a pause whether somebody else resumed the guest. It is one of
	// the same VM's, and stays the caller's, to be closed after the last Release.
	Watch Watch

	// Gate makes what a job of the hypervisor's may be had to wait at, nil if
	// there is none.
	Gate func(ctx context.Context) (Gate, error)
}

// Gate is a pipe that nobody reads: what writes to it waits, until the pipe is
// closed and the write fails. A process of its own has it, which the kernel ends
// when this process dies, and when what Arm said is over, even if all of snap's
// processes are stopped. It is safe for concurrent use.
type Gate interface {
	// Path names the pipe's writing end to processes of this one's PID namespace.
	// It leads nowhere before long: when somebody has written, and when the pipe
	// is closed.
	Path() string

	// Arm has the pipe closed at the given time, zero for no time in particular,
	// and when there was no progress for hv.Patience. It is called once, before
	// anybody is told the path.
	Arm(until time.Time) error

	// Progressed says that there was progress.
	Progressed()

	// Written is closed when somebody has opened the pipe and written to it.
	Written() <-chan struct{}

	// Closed is closed when the pipe is.
	Closed() <-chan struct{}

	// Overdue returns a *OverdueError if the pipe was closed, but not by Shut.
	Overdue() error

	// Shut closes the pipe, and returns when it is closed.
	Shut()

	// Free gives away the numbers that Path consists of, which belong to nobody
	// else until then. It is called after Shut, when nobody will open the path
	// any more.
	Free()
}

// Patience is how long a guest is held without progress before whoever keeps the
// pause lets it go: a process that is stopped makes none.
const Patience = 30 * time.Second

// Keeper undoes in this process's stead, should it die, what was done to a guest;
// and should it not do so itself in the time that it promised.
type Keeper interface {
	// Hold is called before anything is done to the guest. If it fails nobody
	// would undo it, and so it isn't done. It is undone soon after the time until,
	// if that isn't zero, and when there was no progress for Patience, or somewhat
	// longer.
	Hold(ctx context.Context, why Reason, until time.Time) error

	// Progressed says that there was progress. It doesn't wait.
	Progressed()

	// Freed is called when all is undone, or the guest has ended, and its marker
	// is gone. It fails with a *OverdueError if the keeper had undone it before.
	Freed() error
}

// OverdueError is a guest that was let go by whoever kept the pause, as it was held
// for longer than promised. It is ErrOverdue.
type OverdueError struct {
	Held time.Duration // how long it was held until then
	Why  string        // which promise was broken
}

func (e *OverdueError) Error() string {
	return fmt.Sprintf("%v after %v: %s", ErrOverdue, e.Held.Round(time.Millisecond), e.Why)
}

// Is reports whether target is ErrOverdue.
func (e *OverdueError) Is(target error) bool { return target == ErrOverdue }

// Marker is the note on a running VM that a process holds it. It is there from
// before a pause until after the resume, so that a guest without it was not
// paused by that process. A VM bears one at most.
type Marker struct {
	Run       string    // names the dump
	Host      string    // that the process runs on
	Boot      string    // boot id of that host (/proc/sys/kernel/random/boot_id)
	Namespace uint64    // PID namespace of the process, by the inode of /proc/PID/ns/pid
	PID       int       // of the process there
	Start     uint64    // of the process, in clock ticks since boot (proc(5), stat, field 22)
	Since     time.Time // to the second
	Was       State     // the guest's before: always StateRunning
	Why       Reason
}

// Watch follows what happens to a VM. It goes on through lost connections; what
// happens while there is none is not known.
type Watch interface {
	// Reset forgets the suspends and resumes that were seen: those that count come
	// now. paused says that the guest may be paused already, so that a resume
	// counts without a suspend before it.
	Reset(paused bool)

	// Resumed reports whether the guest was paused and resumed since Reset, by
	// whomever.
	Resumed() bool

	// Ended returns why the VM ended, nil if it is not known to have: ErrBusy if
	// it was migrated away or saved, else ErrNotRunning.
	Ended() error

	// Over is closed when the VM is known to have ended.
	Over() <-chan struct{}

	// Close ends the Watch.
	Close()
}

// Left is what a process that died has left of what it did to a VM.
type Left struct {
	Run   string // of the marker: what isn't marked with it isn't undone
	Why   Reason
	Watch Watch // of somebody who looked meanwhile, nil if nobody did
}
