package main

import (
	"context"
	"errors"
	"fmt"
	"log/syslog"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"snap/hv"
	"snap/hv/connect"
	"snap/hv/guardian"
	"snap/store"
)

// Hidden subcommands that snap starts itself with.
const (
	guardianCommand = "guardian"
	gateCommand     = "gate"
)

// Bounds on finding out why a domain went away.
const (
	endWait = 5 * time.Second // for the daemon to notice
	endPoll = 50 * time.Millisecond
)

// held is what stands behind a dump of a domain, should snap be killed: its lock
// and its guardian. Those of a guest that ends with snap are nil.
type held struct {
	guardian *guardian.Guardian
	watch    hv.Watch
	vm       hv.VM
	stop     func()      // following the domain, nil before it is
	freed    atomic.Bool // snap has held the guest and let it go
	cut      atomic.Bool // the dump was ended because the domain had
}

// hold locks the domain and gets its guardian ready.
func (a *app) hold(ctx context.Context, vm hv.VM) (*held, error) {
	d, ok := vm.(hv.Guardable)
	if !ok {
		return nil, nil
	}
	g, err := guardian.Start(ctx, d, connect.Open, guardian.Program{
		Name: a.call.program(), Guardian: []string{guardianCommand}, Gate: []string{gateCommand},
		Remove: removeUpload(a.s3.options()),
	})
	if err != nil {
		return nil, err
	}
	for _, what := range g.Recovered() {
		a.log.Warn().Msg("an earlier dump was killed: " + asCalled(a.call.program(), what))
	}
	w, err := d.Watch(ctx)
	if err != nil {
		return nil, errors.Join(err, g.End())
	}
	h := &held{guardian: g, watch: w, vm: d}
	d.Guard(g.Guard(h, w))
	return h, nil
}

// removeUpload is how uploads are aborted that a killed snap has begun.
func removeUpload(at store.S3) guardian.Remove {
	return func(ctx context.Context, url, id string) error {
		return store.RemoveUnfinished(ctx, url, id, store.Options{S3: at})
	}
}

// busyWithDump returns err, or who takes a dump of the domain if that is why it is
// busy: a dump may hold the guest by a job of the hypervisor's.
func busyWithDump(vm hv.VM, err error) error {
	if _, ok := vm.(hv.Guardable); !ok || !errors.Is(err, hv.ErrBusy) {
		return err
	}
	if locked := guardian.Running(vm.Identity()); errors.Is(locked, guardian.ErrLocked) {
		return locked
	}
	return err
}

// Hold implements hv.Keeper.
func (h *held) Hold(ctx context.Context, why hv.Reason, until time.Time) error {
	return h.guardian.Hold(ctx, why, until)
}

// Progressed implements hv.Keeper.
func (h *held) Progressed() { h.guardian.Progressed() }

// Freed implements hv.Keeper.
func (h *held) Freed() error {
	h.freed.Store(true)
	return h.guardian.Freed()
}

// unneeded says that nothing is needed of the guest any more.
func (h *held) unneeded() {
	if h != nil {
		h.freed.Store(true)
	}
}

// fileGuardian is who removes files that are being written if snap is killed.
func (h *held) fileGuardian() store.Guardian {
	if h == nil {
		return nil
	}
	return h.guardian
}

// whileThere returns a context that ends when the domain does, unless snap needs
// nothing of it any more: its pages would be gaps, one by one.
func (h *held) whileThere(ctx context.Context) context.Context {
	if h == nil {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	h.stop = cancel
	go func() {
		select {
		case <-h.watch.Over():
			if !h.freed.Load() {
				h.cut.Store(true)
				cancel()
			}
		case <-ctx.Done():
		}
	}()
	return ctx
}

// end lets guardian and lock go, and returns err with the reason for it if that
// is the domain's end.
func (h *held) end(err error) error {
	if h == nil {
		return err
	}
	if why := h.whyEnded(err); why != nil {
		err = fmt.Errorf("%w: %s", why, err.Error())
	}
	if h.stop != nil {
		h.stop()
	}
	h.watch.Close()
	return errors.Join(err, h.guardian.End())
}

// whyEnded returns what became of the domain if that can be why err happened. The
// daemon learns of QEMU's end a moment after snap does.
func (h *held) whyEnded(err error) error {
	switch code, _ := classify(err); code {
	case exitInterrupted:
		if !h.cut.Load() {
			return nil
		}
	case exitFailed, exitDenied, exitNoDomain, exitUnsupported, exitStillPaused,
		// A domain that is being shut down is busy, pages that are gone are no
		// Windows, and what waits for them takes too long.
		exitBusy, exitNotWindows, exitTooLong:
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	for {
		if why := h.watch.Ended(); why != nil {
			return why
		}
		if _, err := h.vm.Registers(ctx); err == nil {
			return nil // QEMU answers: it was something else
		}
		select {
		case <-time.After(endPoll):
		case <-ctx.Done():
			return nil
		}
	}
}

func newGuardianCommand(*app) *cobra.Command {
	return ownCommand(guardianCommand, "Undo a dump whose snap is killed or stopped (started by snap dump)",
		func(program string) error {
			return guardian.Serve(connect.Open, removeUpload(s3FromEnv()), within(syslogFor, func(text string) {
				toSyslog(program, asCalled(program, text))
			}))
		})
}

func newGateCommand(*app) *cobra.Command {
	return ownCommand(gateCommand, "Have the pipe by which a guest is held (started by snap dump)", func(string) error { return guardian.ServeGate() })
}

// ownCommand is a command that snap alone starts. serve gets the name that it is called by.
func ownCommand(name, short string, serve func(program string) error) *cobra.Command {
	return &cobra.Command{
		Use:    name,
		Short:  short,
		Hidden: true,
		Args:   cobra.NoArgs,
		// In place of the root's: what flags and environment say was checked by
		// the snap that starts it.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE:              func(cmd *cobra.Command, _ []string) error { return serve(cmd.Root().Name()) },
	}
}

// syslogFor is how long the host's log may take a line: a guest may be waiting for what
// is done after it.
const syslogFor = 2 * time.Second

// within is report, given up after a time: what it still does it does in the background.
func within(d time.Duration, report func(string)) func(string) {
	return func(text string) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			report(text)
		}()
		select {
		case <-done:
		case <-time.After(d):
		}
	}
}

// toSyslog writes to the host's log, where there is one, as the program of a name.
func toSyslog(program, text string) {
	w, err := syslog.New(syslog.LOG_WARNING|syslog.LOG_DAEMON, program)
	if err != nil {
		return
	}
	_ = w.Warning(text) // there is nowhere else to say it
	_ = w.Close()
}
