package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"snap/hv"
	"snap/hv/connect"
	"snap/hv/guardian"
)

func newRecoverCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover [flags] [DOMAIN]",
		Short: "Undo what killed dumps left: resume their guests, remove partial files",
		Long: `Undo what killed dumps left, of one domain or of all: resume the guests that they
paused, end the snapshots that QEMU takes for them and put its settings back, remove
their partial files and the marks on their domains. Each dump has a guardian, a
second process that does the same within moments of snap's death; this is for
when both were killed.

Dumps of this user are known from the state files in /run/snap (for root) or
$XDG_RUNTIME_DIR/snap; pauses of others from the marks on the connection's
domains. A dump that still runs is left alone, and so is a guest without a mark:
snap didn't pause it.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("snap recover takes one DOMAIN or none, not %d arguments", len(args))
			}
			return nil
		},
		Annotations: exitCodes(exitNoDomain, exitDenied, exitStillPaused),
		Example:     "  snap recover\n  snap recover web01",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.recover(cmd.Context(), strings.Join(args, ""))
		},
	}
	addConnectFlag(cmd, a)
	return cmd
}

// recover is snap recover: of the domain ref, or of all if it is empty.
func (a *app) recover(ctx context.Context, ref string) error {
	dir, err := guardian.Dir()
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	runs, err := guardian.Runs(dir)
	errs := []error{err}
	found := 0
	known := map[string]bool{}
	tell := func(name string, r guardian.Recovery, err error) {
		found++
		if err != nil {
			errs = append(errs, fmt.Errorf("recover %s: %w", name, err))
		}
		if r.Running {
			r.Did = append(r.Did, "its dump is running: left alone")
		}
		for _, what := range r.Did {
			_, err := fmt.Fprintf(a.stdout, "%s: %s\n", name, what)
			errs = append(errs, err)
		}
	}
	for _, r := range runs {
		if ref == "" || ref == r.Name || ref == r.UUID {
			known[r.ID] = true
			done, err := guardian.Recover(ctx, connect.Open, dir, r)
			tell(r.Name, done, err)
		}
	}
	err = a.recoverMarked(ctx, dir, ref, known, tell)
	// A state file knew the domain, which may be gone, and another connection.
	if found == 0 || !errors.Is(err, hv.ErrNoDomain) {
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	if found == 0 && err == nil {
		_, err = fmt.Fprintln(a.stdout, "nothing to undo")
	}
	return err
}

// recoverMarked looks for marks on domains that no state file tells of. Guests that
// end with their snap bear none.
func (a *app) recoverMarked(ctx context.Context, dir, ref string, known map[string]bool, tell func(string, guardian.Recovery, error)) error {
	conn, err := a.openConnection(ctx)
	if err != nil {
		return fmt.Errorf("look for marks on domains: %w", err)
	}
	defer conn.Close()
	refs := []string{ref}
	if ref == "" {
		domains, err := conn.Domains(ctx)
		if err != nil {
			return fmt.Errorf("look for marks on domains: %w", err)
		}
		refs = nil
		for _, d := range domains {
			if d.ID > 0 {
				refs = append(refs, d.UUID)
			}
		}
	}
	// A mark that is wrong must not stand between the others and their undoing.
	var errs []error
	for _, ref := range refs {
		if err := recoverMark(ctx, conn, dir, ref, known, tell); err != nil {
			errs = append(errs, fmt.Errorf("look for a mark: %w", err))
		}
	}
	return errors.Join(errs...)
}

// recoverMark undoes what the mark on one domain tells of, if it has one.
func recoverMark(ctx context.Context, conn hv.Connection, dir, ref string, known map[string]bool, tell func(string, guardian.Recovery, error)) error {
	vm, err := conn.Lookup(ctx, ref)
	if err != nil {
		return err
	}
	defer vm.Close()
	d, ok := vm.(hv.Guardable)
	if !ok || d.Identity().ID == 0 {
		return nil
	}
	m, err := d.Marker(ctx)
	if err != nil {
		return err
	}
	if m != nil && !known[m.Run] {
		done, err := guardian.RecoverMarked(ctx, dir, d, m)
		tell(d.Identity().Name, done, err)
	}
	return nil
}
