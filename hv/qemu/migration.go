package qemu

import (
	"context"
	"errors"
	"os"
	"slices"
)

// Names that QEMU knows (qapi/migration.json).
const (
	capSnapshot = "background-snapshot"
	fdSnapshot  = "snap-snapshot" // ours, of the descriptor that it saves to
)

// migration is what QMP query-migrate returns of an outgoing migration, which a
// background snapshot is to QEMU.
type migration struct {
	Status   string   `json:"status"` // empty if there was none
	Error    string   `json:"error-desc"`
	Blocked  []string `json:"blocked-reasons"`
	Downtime float64  `json:"downtime"` // milliseconds
	RAM      struct {
		Total     uint64 `json:"total"`     // bytes
		Remaining uint64 `json:"remaining"` // bytes
	} `json:"ram"`
}

// over reports whether QEMU has nothing more to do for the migration.
func (m migration) over() bool {
	return slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, m.Status)
}

// settingUp reports whether QEMU has not begun to save yet.
func (m migration) settingUp() bool { return m.Status == "setup" }

func (g *Guest) migration(ctx context.Context) (migration, error) {
	return qmp[migration](ctx, g, "query-migrate")
}

// capability is an entry of QMP query-migrate-capabilities.
type capability struct {
	Name string `json:"capability"`
	On   bool   `json:"state"`
}

// snapshotCapability reports whether QEMU knows background snapshots and whether
// migrations are to be some.
func (g *Guest) snapshotCapability(ctx context.Context) (known, on bool, err error) {
	caps, err := qmp[[]capability](ctx, g, "query-migrate-capabilities")
	for _, c := range caps {
		if c.Name == capSnapshot {
			known, on = true, c.On
		}
	}
	return known, on, err
}

func (g *Guest) setSnapshotCapability(ctx context.Context, on bool) error {
	_, err := qmpWith[nothing](ctx, g, "migrate-set-capabilities", map[string]any{
		"capabilities": []map[string]any{{"capability": capSnapshot, "state": on}},
	}, nil)
	return err
}

// giveSink hands QEMU what it shall save to.
func (g *Guest) giveSink(ctx context.Context, f *os.File) error {
	_, err := qmpWith[nothing](ctx, g, "getfd", map[string]any{"fdname": fdSnapshot}, f)
	return err
}

// closeSink has QEMU let go of what it was handed. There may be nothing: QEMU takes
// it when it begins to save.
func (g *Guest) closeSink(ctx context.Context) error {
	_, err := qmpWith[nothing](ctx, g, "closefd", map[string]any{"fdname": fdSnapshot}, nil)
	if refused(err, "not found") {
		return nil
	}
	return err
}

// startSnapshot has QEMU begin to save to the sink that it was given.
func (g *Guest) startSnapshot(ctx context.Context) error {
	_, err := qmpWith[nothing](ctx, g, "migrate", map[string]any{"uri": "fd:" + fdSnapshot}, nil)
	if _, no := errors.AsType[*RefusedError](err); !no {
		return err
	}
	// The call may have been made twice, if its connection was lost.
	if m, merr := g.migration(ctx); merr == nil && !m.over() {
		return nil
	}
	return err
}
