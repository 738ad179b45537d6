package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"snap/capture"
	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/hv"
	"snap/hv/file"
	"snap/hv/guardian"
	"snap/input"
)

// Exit codes, as every subcommand's help lists them. Scripts depend on them.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitDegraded     = 3
	exitNoDomain     = 10
	exitLocked       = 11
	exitDenied       = 12
	exitNotWindows   = 13
	exitConfidential = 14
	exitNoSpace      = 15
	exitBusy         = 16
	exitTooLong      = 17
	exitUnsupported  = 19
	exitStillPaused  = 20
	exitInterrupted  = 130
)

// exitMeaning is what help says of each code.
var exitMeaning = map[int]string{
	exitOK:           "done (a dump: written and verified)",
	exitFailed:       "failed",
	exitUsage:        "wrong usage",
	exitDegraded:     "written but degraded: unreadable pages, not verified, or too much changed in mode live",
	exitNoDomain:     "no such domain, or it is not running",
	exitLocked:       "another dump of it is running",
	exitDenied:       "not allowed (libvirt, ptrace or file permissions)",
	exitNotWindows:   "not a Windows guest that snap understands",
	exitConfidential: "confidential guest (SEV, TDX): its memory can't be read",
	exitNoSpace:      "no space at the destination",
	exitBusy:         "the domain is migrating, being saved or being dumped",
	exitTooLong:      "the pause would be, or became, too long",
	exitUnsupported:  "the mode or source that was asked for can't work safely here",
	exitStillPaused:  "THE GUEST MAY STILL BE PAUSED: act now",
	exitInterrupted:  "interrupted",
}

// cmdError is an error with what the operator should do next and, where the
// cause alone doesn't decide it, the exit code.
type cmdError struct {
	err  error
	code int // 0: decided by err
	next string
}

func (e *cmdError) Error() string { return e.err.Error() }
func (e *cmdError) Unwrap() error { return e.err }

// next adds advice to err; an inner error's advice is kept.
func next(err error, format string, args ...any) error {
	var inner *cmdError
	if err == nil || errors.As(err, &inner) && inner.next != "" {
		return err
	}
	e := &cmdError{err: err, next: fmt.Sprintf(format, args...)}
	if inner != nil {
		e.code = inner.code
	}
	return e
}

// usageError marks a wrong command line.
func usageError(format string, args ...any) error {
	return &cmdError{err: fmt.Errorf(format, args...), code: exitUsage}
}

const otherGuests = "snap understands 64-bit Windows; use virsh dump --memory-only for other guests"

const oddKernel = "snap check -v lists what was tried; virsh dump --memory-only keeps the memory for a later look"

// exitClasses maps causes to codes, the gravest first: the first that an
// error matches decides.
var exitClasses = []struct {
	cause error
	code  int
	next  string
}{
	{hv.ErrStillPaused, exitStillPaused, "resume the guest: snap recover DOMAIN, or virsh resume DOMAIN"},
	{capture.ErrPauseTooLong, exitTooLong, "allow a longer one with --max-pause; snap check DOMAIN says what each way would take"},
	{guardian.ErrLocked, exitLocked, "wait for it to end: the error names its process"},
	{hv.ErrDisturbed, exitFailed, "take the dump again: somebody else resumed the guest during this one"},
	{context.Canceled, exitInterrupted, ""},
	{context.DeadlineExceeded, exitFailed, "allow more time with --timeout"},
	{hv.ErrNoDomain, exitNoDomain, "snap list shows the domains of a connection; -c chooses another one"},
	{hv.ErrNotRunning, exitNoDomain, "start the domain: only a running or paused guest has memory to dump"},
	{hv.ErrConfidential, exitConfidential, "take the dump inside the guest: its memory is encrypted for the host"},
	{hv.ErrBusy, exitBusy, "wait for the other job to end (virsh domjobinfo DOMAIN), then try again"},
	{hv.ErrUnsupported, exitUnsupported, "snap check DOMAIN lists what works; --mode auto and --source auto let snap choose"},
	{hv.ErrDenied, exitDenied, "run as root, or as the user that QEMU runs as with access to libvirt"},
	{fs.ErrPermission, exitDenied, "choose a place where you may write, or run as a user who may"},
	{hv.ErrNoAnswer, exitFailed, "something of libvirt's is stopped or very busy: virsh list --all shows whether it answers at all (if not: systemctl status libvirtd virtqemud; guests run on while it is restarted), virsh domjobinfo DOMAIN whether the domain has a job"},
	{hv.ErrUnreachable, exitFailed, "make sure that libvirt's daemon runs (systemctl status libvirtd virtqemud) and that the URI of -c leads to it"},
	{guest.ReasonFirmware, exitNotWindows, "wait until Windows has started, then try again"},
	{guest.ReasonEncrypted, exitConfidential, "take the dump inside the guest: its memory is encrypted for the host"},
	{guest.ReasonKernel, exitNotWindows, oddKernel},
	{guest.ReasonNoKernel, exitNotWindows, oddKernel},
	{guest.ReasonEnded, exitNotWindows, oddKernel},
	{guest.ReasonNested, exitNotWindows, oddKernel},
	{guest.ErrNotWindows, exitNotWindows, otherGuests},
	{file.ErrArch, exitNotWindows, otherGuests},
	{input.ErrShrunk, exitFailed, "wait until whatever writes the file has ended, then run the same command again"},
	{input.ErrCompression, exitFailed, "copy the file again: it is cut short or damaged on its way (gzip -t, zstd -t and xz -t test one)"},
	{exclude.ErrTooMany, exitFailed, "snap check --no-advertised lists who asks; --no-advertised keeps all of it in the dump, --max-excluded raises the limit"},
	{capture.ErrNotExcluded, exitFailed, "correct --exclude: pa: ranges must be the guest's memory, and va: ranges mapped for the System process; snap check --exclude RANGES lists what each would leave out"},
	{capture.ErrTooManyRuns, exitFailed, "--format bitmap has room for any number of holes"},
	{guest.ErrFiveLevel, exitNotWindows, otherGuests},
	{syscall.ENOSPC, exitNoSpace, "free some space, or choose another destination with -o"},
	{syscall.EDQUOT, exitNoSpace, "free some of your quota, or choose another destination with -o"},
	{dump.ErrFormat, exitFailed, "what is damaged can't be mended: copy the file again, or take the dump again"},
	{hv.ErrFormat, exitFailed, "check that the file is whole, and what it is: file FILE"},
	{fs.ErrExist, exitFailed, "choose another name, or replace the file with --force"},
}

// classify returns err's exit code and what to do next.
func classify(err error) (code int, advice string) {
	if err == nil {
		return exitOK, ""
	}
	code = exitFailed
	for _, c := range exitClasses {
		if errors.Is(err, c.cause) {
			code, advice = c.code, c.next
			break
		}
	}
	if e, ok := errors.AsType[*hv.StateError](err); ok && code != exitStillPaused {
		advice = stateAdvice(e.State, e.ID)
	}
	var ce *cmdError
	if errors.As(err, &ce) {
		if ce.code != 0 && code == exitFailed {
			code = ce.code
		}
		if ce.next != "" {
			advice = ce.next
		}
	}
	if r, ok := errors.AsType[*input.Refusal](err); ok {
		advice = refusalAdvice(r)
	}
	if r, ok := errors.AsType[*input.NoRoomError](err); ok {
		advice = strings.ReplaceAll("expand it where there is room and give the result: "+r.Command, "FILE", shellPath(r.Path))
	}
	if code == exitUsage && advice == "" {
		advice = "snap --help, and snap COMMAND --help, list commands and flags"
	}
	return code, advice
}
