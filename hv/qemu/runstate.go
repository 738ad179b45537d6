package qemu

import (
	"context"
	"slices"
)

// stoppedItself are the run states in which QEMU or the guest, and nobody outside,
// stopped the processors: a crash, an I/O error, a watchdog, an emulation that
// failed, a shutdown, sleep (qapi/run-state.json). A "stop" from outside doesn't
// change them, so that they still tell when whoever manages QEMU has forgotten.
var stoppedItself = []string{"guest-panicked", "io-error", "watchdog", "internal-error", "shutdown", "suspended"}

// RunState is what QEMU says that the guest does.
type RunState struct {
	Running bool   `json:"running"`
	Status  string `json:"status"` // RunState of qapi/run-state.json
}

// RunState asks QEMU what the guest does.
func (g *Guest) RunState(ctx context.Context) (RunState, error) {
	return qmp[RunState](ctx, g, "query-status")
}

// StoppedItself reports whether the guest stands still and nobody outside has asked
// for it: it must not be resumed by anyone but an operator who knows why.
func (s RunState) StoppedItself() bool {
	return !s.Running && slices.Contains(stoppedItself, s.Status)
}
