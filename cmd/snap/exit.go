package main

import (
	"errors"
	"fmt"
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
	exitUpload       = 18
	exitUnsupported  = 19
	exitStillPaused  = 20
	exitUnmet        = 21
	exitInterrupted  = 130
)

// exitMeaning is what help says of each code.
var exitMeaning = map[int]string{
	exitOK:           "done (a dump: written and verified)",
	exitFailed:       "failed",
	exitUsage:        "wrong usage",
	exitDegraded:     "written but degraded: pages unreadable, hidden by the guest or not left out; KDBG or lists cut; not verified; or smeared",
	exitNoDomain:     "no such domain, or it is not running",
	exitLocked:       "another dump of it is running",
	exitDenied:       "not allowed (libvirt, ptrace, file permissions), or no key that opens an encrypted file",
	exitNotWindows:   "not a Windows guest that snap understands",
	exitConfidential: "confidential guest (SEV, TDX): its memory can't be read",
	exitNoSpace:      "no space at the destination",
	exitBusy:         "the domain is migrating, being saved or being dumped",
	exitTooLong:      "the pause would be, or became, too long",
	exitUpload:       "the upload to S3 failed: no object is left, no unfinished upload unless the error says so, and a copy if --keep-local asked for one",
	exitUnsupported:  "the mode or source that was asked for can't work safely here",
	exitStillPaused:  "THE GUEST MAY STILL BE PAUSED: act now",
	exitUnmet:        "no dump: pages that were to stay out would, or might, be in it (--require-exclusions)",
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

// valueError is a value that a flag can't have.
type valueError struct {
	flag  string // its long name
	value string
	takes string // what it takes instead, with an example
	err   error  // what says so in words of its own, or nil
}

// Unwrap returns what was found wrong.
func (e *valueError) Unwrap() error { return e.err }

func (e *valueError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return fmt.Sprintf("--%s is %q; it takes %s", e.flag, e.value, e.takes)
}

// wrongValue marks a value that a flag can't have as wrong usage. takes says what
// it takes instead, with an example.
func wrongValue(flag string, value any, takes string) error {
	return &cmdError{err: &valueError{flag: flag, value: fmt.Sprint(value), takes: takes}, code: exitUsage}
}

// classify returns err's exit code and what to do next, whatever the command.
func classify(err error) (code int, advice string) { return call{}.classify(err) }

// classify returns err's exit code and what to do next, in words that fit the
// command.
func (c call) classify(err error) (code int, advice string) {
	if err == nil {
		return exitOK, ""
	}
	code = exitFailed
	known := false
	for _, row := range causes() {
		if row.is(err) {
			code, advice, known = row.code, row.next(c, err), true
			break
		}
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
	switch {
	case advice != "":
	case code == exitUsage:
		advice = c.help()
	case !known:
		advice = "try again with -v, which says more; if that explains nothing, report it with what -v says"
	}
	return code, asCalled(c.program(), advice)
}

// help is where the flags are explained.
func (c call) help() string {
	if c.cmd == nil || !c.cmd.HasParent() {
		return "snap --help lists the commands, and snap COMMAND --help their flags"
	}
	return c.cmd.CommandPath() + " --help lists its flags, with an example"
}
