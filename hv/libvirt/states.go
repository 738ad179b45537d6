package libvirt

import (
	"context"
	"fmt"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// status is a domain's state as libvirt has it, with the reason for it.
type status struct{ state, reason int32 }

// meaning is what a state of libvirt's is to a dump, by its reason. Reasons that
// aren't listed have the meaning of the state itself.
type meaning struct {
	state   hv.State
	reasons map[int32]hv.State
}

// meanings translates virDomainState and the enumerations of its reasons
// (include/libvirt/libvirt-domain.h). What each means to a dump is in hv.States.
var meanings = map[rpc.DomainState]meaning{
	rpc.DomainNostate: {hv.StateOther, nil},
	rpc.DomainRunning: {hv.StateRunning, map[int32]hv.State{
		int32(rpc.DomainRunningPostcopy):       hv.StateMoving,
		int32(rpc.DomainRunningPostcopyFailed): hv.StateSplit,
	}},
	rpc.DomainBlocked: {hv.StateRunning, nil},
	rpc.DomainPaused: {hv.StatePaused, map[int32]hv.State{
		int32(rpc.DomainPausedMigration):      hv.StateMoving,
		int32(rpc.DomainPausedSave):           hv.StateSaving,
		int32(rpc.DomainPausedDump):           hv.StateSaving,
		int32(rpc.DomainPausedIoerror):        hv.StateIOError,
		int32(rpc.DomainPausedWatchdog):       hv.StateWatchdog,
		int32(rpc.DomainPausedShuttingDown):   hv.StateShutdown,
		int32(rpc.DomainPausedSnapshot):       hv.StateSaving,
		int32(rpc.DomainPausedCrashed):        hv.StateCrashed,
		int32(rpc.DomainPausedStartingUp):     hv.StateStarting,
		int32(rpc.DomainPausedPostcopy):       hv.StateMoving,
		int32(rpc.DomainPausedPostcopyFailed): hv.StateSplit,
	}},
	rpc.DomainShutdown: {hv.StateShutdown, nil},
	rpc.DomainShutoff: {hv.StateOff, map[int32]hv.State{
		int32(rpc.DomainShutoffCrashed): hv.StateOffCrashed,
		int32(rpc.DomainShutoffSaved):   hv.StateSaved,
	}},
	rpc.DomainCrashed:     {hv.StateCrashed, nil},
	rpc.DomainPmsuspended: {hv.StateAsleep, nil},
}

// hv translates s. A state that isn't known is hv.StateOther.
func (s status) hv() hv.State {
	m, ok := meanings[rpc.DomainState(s.state)]
	if !ok {
		return hv.StateOther
	}
	if st, ok := m.reasons[s.reason]; ok {
		return st
	}
	return m.state
}

// crashing reports whether s may be that of a guest that has just crashed: until it
// has dealt with QEMU's event, libvirt only knows that QEMU stopped the guest.
func (s status) crashing() bool {
	return rpc.DomainState(s.state) == rpc.DomainPaused && rpc.DomainPausedReason(s.reason) == rpc.DomainPausedUnknown
}

// State implements hv.VM. A domain that was started anew since Lookup is off.
func (d *Domain) State(ctx context.Context) (hv.State, error) {
	s, err := d.status(ctx)
	if err != nil {
		return hv.StateOther, err
	}
	return s.hv(), nil
}

func (d *Domain) status(ctx context.Context) (status, error) {
	return query(ctx, d.conn, fmt.Sprintf("ask for the state of domain %q", d.dom.Name), d.readStatus)
}

func (d *Domain) readStatus(l *rpc.Libvirt) (status, error) {
	now, err := l.DomainLookupByUUID(d.dom.UUID)
	if err != nil {
		return status{}, err
	}
	if now.ID != d.dom.ID {
		return status{state: int32(rpc.DomainShutoff)}, nil // another run
	}
	var s status
	s.state, s.reason, err = l.DomainGetState(d.dom, 0)
	if err == nil && now.ID <= 0 && !s.hv().Off() {
		s = status{state: int32(rpc.DomainShutoff)} // without a process there is no memory
	}
	return s, err
}

// stopped fails with hv.ErrDisturbed if QEMU says that the guest stopped by itself.
// libvirt may not know: a guest that does so while a suspend of it is under way is
// paused by a user to it (priv->pausedReason in qemuProcessHandleStop,
// src/qemu/qemu_process.c), and one whose emulation failed is always just paused.
// Where QEMU gives no answer nothing is known, and
// a guest that snap suspended must not stand still for that.
func (d *Domain) stopped(ctx context.Context) error {
	s, err := d.qemu.RunState(ctx)
	if err == nil && s.StoppedItself() {
		return fmt.Errorf("domain %q stopped by itself (QEMU says %s) and is left as it is: %w", d.dom.Name, s.Status, hv.ErrDisturbed)
	}
	return nil
}

// stands fails with hv.ErrBusy unless QEMU itself says that the guest's processors
// stand still: libvirt's state is older than that for a moment, and for good where
// somebody has used QEMU's monitor.
func (d *Domain) stands(ctx context.Context) error {
	s, err := d.qemu.RunState(ctx)
	if err == nil && s.Running {
		return d.busy("libvirt says that it stands still, but QEMU runs it (" + s.Status + ")")
	}
	return err
}
