package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"snap/hv"
)

// stateWait bounds how long an interrupted snap asks in which state the guest is.
const stateWait = 2 * time.Second

// interruption is the end of a command that an operator interrupted, with what is
// known of what it leaves behind. It wraps what was cut short.
type interruption struct {
	what  string // the command and what it was about
	known string // what holds afterwards, empty if nothing is sure
	err   error
}

func (e *interruption) Error() string {
	if e.known == "" {
		return e.what + ": interrupted: " + e.err.Error()
	}
	return e.what + ": interrupted: " + e.known
}

// Unwrap returns what was cut short.
func (e *interruption) Unwrap() error { return e.err }

// onlyInterrupted reports whether err says nothing but that somebody interrupted:
// nothing that had to be undone or removed then failed.
func onlyInterrupted(err error) bool {
	for err != nil {
		switch e := err.(type) { //nolint:errorlint // the tree is walked by hand
		case interface{ Unwrap() []error }:
			for _, each := range e.Unwrap() {
				if !onlyInterrupted(each) {
					return false
				}
			}
			return true
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		default:
			return errors.Is(err, context.Canceled)
		}
	}
	return false
}

// afterwards asks for the guest's state when a dump was interrupted. It returns what
// to say of it, empty where it is not known.
func afterwards(ctx context.Context, vm hv.VM, before hv.State) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stateWait)
	defer cancel()
	state, err := vm.State(ctx)
	switch {
	case err != nil:
		return ""
	case state == before && state == hv.StateRunning:
		return "the guest runs"
	case state == before:
		return fmt.Sprintf("the guest is %s, as before", state)
	}
	return fmt.Sprintf("the guest is %s now; it was %s before", state, before)
}

// nothingLeft says of an interrupted command's result that there is none.
func nothingLeft(output string) string {
	if output == "-" {
		return "what went to standard output is no whole dump"
	}
	return "nothing was left behind"
}

// interrupted returns err, or what to say where it is an interruption: guest is what
// is known of the guest, empty for nothing, and output where a result would be.
func interrupted(err error, what, guest, output string) error {
	if !errors.Is(err, context.Canceled) || errors.Is(err, hv.ErrStillPaused) {
		return err
	}
	e := &interruption{what: what, err: err}
	if onlyInterrupted(err) {
		known := []string{nothingLeft(output)}
		if guest != "" {
			known = []string{guest, known[0]}
		}
		e.known = strings.Join(known, ", and ")
	}
	return e
}

// outputFlag is what was asked for with -o, empty for nothing.
func outputFlag(cmd *cobra.Command) string {
	if f := cmd.Flags().Lookup("output"); f != nil {
		return f.Value.String()
	}
	return ""
}
