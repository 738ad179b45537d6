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
	var force bool
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
snap didn't pause it.

A mark of another host, from which the guest was migrated for instance, may be of a
dump that runs there. --force says that none does: the mark's dump is undone on this
domain. It also removes state files and marks that no dump can have made, and forgets
partial files that can't be removed. What a mark says leads to nothing but its own
domain, whoever wrote it: docs/threat-model.md.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("snap recover takes one DOMAIN or none, not %d arguments", len(args))
			}
			return nil
		},
		Annotations: exitCodes(exitNoDomain, exitDenied, exitStillPaused),
		Example:     "  snap recover\n  snap recover web01\n  snap recover --force web01",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.recover(cmd.Context(), strings.Join(args, ""), force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "no dump runs, whatever marks of other hosts say; remove what can't be believed")
	addConnectFlag(cmd, a)
	return cmd
}

// recovering is a run of snap recover.
type recovering struct {
	a     *app
	dir   string // of state files
	force bool
	known map[string]bool // runs that state files tell of
	found int
	errs  []error
}

// recover is snap recover: of the domain ref, or of all if it is empty.
func (a *app) recover(ctx context.Context, ref string, force bool) error {
	dir, err := guardian.Dir()
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	r := &recovering{a: a, dir: dir, force: force, known: map[string]bool{}}
	if err := a.checkURI(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if force {
		gone, err := guardian.RemoveDamaged(dir)
		for _, path := range gone {
			r.tell("state", guardian.Recovery{Did: []string{"removed " + path + ", which no dump wrote"}}, nil)
		}
		r.fail(err)
	}
	runs, err := guardian.Runs(dir)
	r.fail(err)
	for _, run := range runs {
		if ref == "" || ref == run.Name || ref == run.UUID {
			r.known[run.ID] = true
			run.Remove = removeUpload(a.s3.options())
			done, err := guardian.Recover(ctx, connect.Open, dir, run, force)
			r.tell(run.Name, done, err)
		}
	}
	// State files tell of domains of any connection, which must not need this one.
	if err := r.marked(ctx, ref); err != nil {
		r.fail(fmt.Errorf("look for marks on domains: %w", err))
	}
	err = errors.Join(r.errs...)
	if r.found == 0 && err == nil {
		_, err = fmt.Fprintln(a.stdout, "nothing to undo")
	}
	return err
}

func (r *recovering) fail(err error) {
	if err != nil {
		r.errs = append(r.errs, err)
	}
}

// tell says what was done about one dump. Names may be anybody's.
func (r *recovering) tell(name string, done guardian.Recovery, err error) {
	r.found++
	if err != nil {
		r.fail(fmt.Errorf("recover %s: %w", name, err))
	}
	if done.Running {
		done.Did = append(done.Did, fmt.Sprintf("its dump is running (%s): left alone; if it isn't: %s recover --force", done.Who, r.a.call.program()))
	}
	for _, what := range done.Did {
		_, err := fmt.Fprintf(r.a.stdout, "%s: %s\n", printable(name), printable(what))
		r.fail(err)
	}
}

// marked looks for marks on domains that no state file tells of. Guests that end with
// their snap bear none.
func (r *recovering) marked(ctx context.Context, ref string) error {
	conn, err := r.a.openConnection(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if ref != "" {
		err := r.mark(ctx, conn, ref)
		if r.found > 0 && errors.Is(err, hv.ErrNoDomain) {
			return nil // a state file knew the domain, which may be gone, and another connection
		}
		return err
	}
	return r.all(ctx, conn)
}

// all looks for marks on all domains of a connection. One that is wrong must not stand
// between the others and their undoing.
func (r *recovering) all(ctx context.Context, conn hv.Connection) error {
	domains, err := conn.Domains(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range domains {
		if d.ID == 0 {
			continue
		}
		err := r.mark(ctx, conn, d.UUID)
		if errors.Is(err, hv.ErrNoDomain) || errors.Is(err, hv.ErrNotRunning) {
			continue // it has ended since, and its mark with it
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// mark undoes what the mark on one domain tells of, if it has one.
func (r *recovering) mark(ctx context.Context, conn hv.Connection, ref string) error {
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
	switch {
	case errors.Is(err, hv.ErrFormat) && r.force:
		done, err := guardian.RemoveMark(ctx, d)
		r.tell(d.Identity().Name, done, err)
	case errors.Is(err, hv.ErrFormat):
		return guardian.Unbelieved(d, err)
	case err != nil:
		return err
	case m != nil && !r.known[m.Run]:
		done, err := guardian.RecoverMarked(ctx, r.dir, d, m, r.force)
		r.tell(d.Identity().Name, done, err)
	}
	return nil
}
