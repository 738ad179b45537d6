package hv

import (
	"errors"
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
	// ErrNoAnswer: the daemon or QEMU is there but answers nothing in the time that
	// a call is given. What was asked for may still be done.
	ErrNoAnswer = errors.New("no answer")
	// ErrConfidential: the guest's memory is encrypted (SEV, TDX).
	ErrConfidential = errors.New("confidential guest")
	// ErrURI: a connection URI that no driver takes, or that leads nowhere.
	ErrURI = errors.New("no connection can be made by that URI")
	// ErrUnsupported: the source or mode that was asked for can't work safely here.
	ErrUnsupported = errors.New("not possible here")
	// ErrStillPaused: the guest was paused by snap and could not be resumed.
	ErrStillPaused = errors.New("guest may still be paused")
	// ErrDisturbed: somebody else resumed the guest while it was to stand still,
	// so that what was read is not of one point in time.
	ErrDisturbed = errors.New("the guest was interfered with")
	// ErrOverdue: this process held the guest for longer than it had promised, so that
	// whoever keeps the pause let the guest go.
	ErrOverdue = errors.New("the guest was let go in snap's stead")
	// ErrRefused: the daemon or QEMU doesn't do it, for a reason of its own that none
	// of the classes above is.
	ErrRefused = errors.New("refused")
	// ErrNotUnderstood: the daemon or QEMU answers what snap doesn't understand: they
	// are newer than it, or something is wrong with them.
	ErrNotUnderstood = errors.New("the answer isn't understood")
	// ErrFormat: a file is not of the kind it was said to be, or is damaged.
	ErrFormat = errors.New("damaged or unknown format")
)
