package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
	"snap/hv"
	"snap/retention"
)

// dumpFlags are the flags of snap dump.
type dumpFlags struct {
	file    fileFlags
	look    lookFlags
	keep    keepFlags
	policy  retention.Policy // of keep
	pause   pauseFlags
	live    liveFlags
	source  choice[hv.Mechanism]
	mode    choice[string]
	nice    int
	io      choice[limits.IOClass]
	timeout time.Duration
}

func newDumpCommand(a *app) *cobra.Command {
	var o dumpFlags
	cmd := &cobra.Command{
		Use:   "dump [flags] DOMAIN",
		Short: "Take a dump of a domain that runs, is paused or has crashed",
		Long: `Take a full crash dump of a Windows guest that runs, is paused, or has crashed and
is preserved.

DOMAIN is a name, UUID or id. The dump is written beside its final name, read
back and verified, and only then given that name; an interrupted run leaves
nothing that looks valid. What goes to standard output can't be read back: it is
verified on its way. The guest's memory is never written, and a guest that
snap paused is resumed on every way out: if snap is killed, by a second process,
its guardian; if both are, by snap recover.

In mode pause, the guest stands still while its pages are copied to memory of the
host (--spool); all else happens when it runs again. How long that will take is
estimated before from samples of its pages, as a range. A pause that could be longer
than --max-pause is not begun, and one that turns out to become longer is ended as
soon as that is known, without a dump. A guest that stands still already (paused,
crashed, stopped by an I/O error or its watchdog) is left so, for as long as it takes.

In mode snapshot the guest runs on but for a moment: QEMU keeps each page as it was
until it is saved, to memory of the host (--spool). It takes longer than a pause,
and only where it is known to do no harm: QEMU 9.0 or later on this host, private
anonymous memory, no devices that write to it behind QEMU's back, userfaultfd
allowed. Elsewhere it is refused, and nothing was changed. snap check says what
each mode would take.

In mode live the guest is not paused, and its pages are from different times. Page
tables and the kernel's lists are read again until two readings agree. Then all
pages are read a second time, to count those that changed meanwhile; above
--max-changed, or if tables and lists never agree, the exit code is 3.

With --keep-last and the like, a dump that was verified removes those older ones of
the same domain, where it was written itself, that snap prune would remove by these
rules. What fails then is a warning, and the exit code that of the dump.`,
		Args:        oneArg("DOMAIN"),
		Annotations: dumpExitCodes(),
		Example:     "  snap dump web01 -o /backup/\n  snap expand /backup/web01-20261122T010000Z.dmp.zst -o web01.dmp",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.traced(cmd.Context(), &o.file, "dump", func(ctx context.Context) error {
				return a.dumpDomain(ctx, args[0], &o)
			})
		},
	}
	o.addTo(cmd, a)
	return cmd
}

// addTo gives cmd the flags: snap check has all of them too, so that what it says is
// about the very dump.
func (f *dumpFlags) addTo(cmd *cobra.Command, a *app) {
	addConnectFlag(cmd, a)
	f.file.addTo(cmd, a, "./{domain}-{time}.dmp.zst")
	addModeFlag(cmd, &f.mode)
	f.pause.addTo(cmd)
	f.live.addTo(cmd)
	addSourceFlag(cmd, &f.source)
	f.look.addTo(cmd)
	f.keep.addTo(cmd, "; as of snap prune")
	fl := cmd.Flags()
	fl.Lookup("cpus").Usage = "processors that snap may use but for copying pages of a guest that stands still,\nwhich all do (default all)"
	fl.IntVar(&f.nice, "nice", 10, "scheduling priority of snap while it doesn't hold the guest still, 0 to 19")
	addChoice(cmd, &f.io, "ionice", limits.IOClasses(),
		"rank of snap's writing and reading on disks that heed it, while it doesn't hold the\nguest still; low: after others; idle: only if there are none; normal: unchanged")
	fl.DurationVar(&f.timeout, "timeout", 0, "give up after that long, with everything undone (default none)")
}

// dumpExitCodes are those that a dump, and so a check of one, can end with.
func dumpExitCodes() map[string]string {
	return exitCodes(exitDegraded, exitNoDomain, exitLocked, exitDenied, exitNotWindows, exitConfidential,
		exitNoSpace, exitBusy, exitTooLong, exitUpload, exitUnsupported, exitStillPaused, exitUnmet)
}

// addModeFlag gives cmd the flag that chooses among the library's modes.
func addModeFlag(cmd *cobra.Command, c *choice[string]) {
	names := []string{capture.ModeAuto}
	usage := ""
	for _, m := range capture.Modes() {
		names = append(names, m.Name())
		usage += m.Name() + ": " + m.Doc() + ";\n"
	}
	addChoice(cmd, c, "mode", names, usage+"auto: pause if its estimate fits --max-pause, else snapshot where it is safe")
}

// addSourceFlag gives cmd the flag that chooses how memory is read.
func addSourceFlag(cmd *cobra.Command, c *choice[hv.Mechanism]) {
	addChoice(cmd, c, "source", hv.Mechanisms(),
		"direct: QEMU's memory on this host; peek: through libvirt; auto: direct where it works")
}

// dumpDomain is snap dump.
func (a *app) dumpDomain(ctx context.Context, ref string, f *dumpFlags) (err error) {
	o, err := f.options(ctx, a)
	if err != nil {
		return err
	}
	ctx, cancel := f.within(ctx)
	defer cancel()
	p, err := a.approach(ctx, ref, f, o, a.hold, false)
	if p == nil {
		return fmt.Errorf("dump %s: %w", ref, f.explain(ctx, err))
	}
	defer func() {
		guest := ""
		if errors.Is(err, context.Canceled) {
			guest = afterwards(ctx, p.vm, p.state)
		}
		err = interrupted(f.explain(ctx, p.close(err)), "dump "+p.id.Name, guest, p.output())
	}()
	if err != nil {
		return fmt.Errorf("dump %s: %w", p.id.Name, err)
	}
	// The guardian, which undoes what is left then, has been started.
	if err := limits.KilledFirst(); err != nil {
		a.log.Warn().Err(err).Msg("a guest may be ended if the host lacks memory")
	}
	show := a.newDisplay(p.id.Name, "", f.considerate(a, p.held))
	defer show.end()
	o.Observer = show
	res, err := capture.Take(p.held.whileThere(ctx), p.vm, p.place, p.file, *o)
	show.end()
	if err != nil {
		return takeAdvice(fmt.Errorf("dump %s: %w", p.id.Name, err))
	}
	err = a.report(ctx, &f.file, res)
	a.keepAfter(ctx, p, f.policy, res)
	return err
}

// errOverdue is the operator's --timeout, which nothing outlasts: unlike somebody
// who doesn't answer.
var errOverdue = errors.New("--timeout is over")

// within bounds ctx by --timeout.
func (f *dumpFlags) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if f.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("%w: %w", errOverdue, context.DeadlineExceeded))
}

// explain says of an error that --timeout was over if it was: ctx is of within.
func (f *dumpFlags) explain(ctx context.Context, err error) error {
	over := errors.Is(context.Cause(ctx), errOverdue)
	if !over || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errOverdue) {
		return err
	}
	return fmt.Errorf("%w: %w", errOverdue, err)
}

// considerate returns what makes snap take less of the host as phases begin. Its
// priorities become low only once the guest isn't held still any more, as there is no
// way back: only then does it wait for others.
func (f *dumpFlags) considerate(a *app, held *held) func(capture.Event) {
	once := sync.OnceFunc(func() {
		if err := limits.Nice(f.nice); err != nil {
			a.log.Warn().Err(err).Msg("priority unchanged")
		}
		if err := limits.SetIOClass(f.io.value); err != nil {
			a.log.Warn().Err(err).Msg("priority on disks unchanged")
		}
	})
	return func(e capture.Event) {
		f.processors(e)
		switch {
		case e.Phase == capture.PhaseVerify:
			held.unneeded()
			once()
		case e.Phase == capture.PhaseWrite && !e.Held:
			once()
		}
	}
}

// processors limits snap to the processors that it may use, but while a guest's pages
// are copied that stands still, and while it is found out how long that takes.
func (f *dumpFlags) processors(e capture.Event) {
	if f.file.cpus == 0 {
		return
	}
	switch e.Phase {
	case capture.PhaseEstimate, capture.PhasePaused:
		limits.CPUs(0)
	default:
		limits.CPUs(f.file.cpus)
	}
}

// options checks the flags and turns them into those of a capture.
func (f *dumpFlags) options(ctx context.Context, a *app) (*capture.Options, error) {
	o, err := f.file.options(ctx, a)
	if err != nil {
		return nil, err
	}
	if o.Mode, err = capture.ModeByName(f.mode.value); err != nil {
		return nil, err // can't be: the flag takes no other names
	}
	if o.Mechanism, err = a.mechanism(f.source.value); err != nil {
		return nil, err
	}
	if o.NoSwap, err = a.mustNotSwap(os.DirFS("/")); err != nil {
		return nil, err
	}
	o.CopyWorkers = limits.CPUs(0)
	limits.CPUs(f.file.cpus)
	if f.timeout < 0 {
		return nil, wrongValue("timeout", f.timeout, "a time like 10m, 0 for none")
	}
	if f.nice < 0 || f.nice > 19 {
		return nil, wrongValue("nice", f.nice, "a number from 0 to 19, such as 10")
	}
	if o.Look, err = f.look.options(); err != nil {
		return nil, err
	}
	if o.MaxChanged, err = f.live.parse(); err != nil {
		return nil, err
	}
	if f.policy, err = f.keepPolicy(); err != nil {
		return nil, err
	}
	return o, f.pause.apply(o)
}

// slogger is the program's log for the library.
func (a *app) slogger() *slog.Logger { return slog.New(zerolog.NewSlogHandler(a.log)) }
