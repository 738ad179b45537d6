package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/cmd/snap/internal/limits"
	"snap/dump"
	"snap/hv"
)

// dumpOptions are the flags of snap dump.
type dumpOptions struct {
	fileOptions
	lookOptions
	pauseOptions
	liveOptions
	mode    string
	source  string
	nice    int
	timeout time.Duration
}

func newDumpCommand(a *app) *cobra.Command {
	var o dumpOptions
	cmd := &cobra.Command{
		Use:   "dump [flags] DOMAIN",
		Short: "Take a dump of a running (or paused) domain",
		Long: `Take a full crash dump of a running or paused Windows guest.

DOMAIN is a name, UUID or id. The dump is written beside its final name, read
back and verified, and only then given that name; an interrupted run leaves
nothing that looks valid. The guest's memory is never written, and a guest that
snap paused is resumed on every way out: if snap is killed, by a second process,
its guardian; if both are, by snap recover.

In mode pause, the guest stands still while its pages are copied to memory of the
host (--spool); all else happens when it runs again. How long that will take is
estimated before from a sample of its pages. A pause that would be longer than
--max-pause is not begun, and one that becomes longer is ended without a dump. A
guest that was paused already stays so, for as long as it takes.

In mode snapshot the guest runs on but for a moment: QEMU keeps each page as it was
until it is saved, to memory of the host (--spool). It takes longer than a pause,
and only where it is known to do no harm: QEMU 9.0 or later on this host, private
anonymous memory, no devices that write to it behind QEMU's back, userfaultfd
allowed. Elsewhere it is refused, and nothing was changed. snap check says what
each mode would take.

In mode live the guest is not paused, and its pages are from different times. Page
tables and the kernel's lists are read again until two readings agree. Then all
pages are read a second time, to count those that changed meanwhile; above
--max-changed, or if tables and lists never agree, the exit code is 3.`,
		Args: oneArg("DOMAIN"),
		Annotations: exitCodes(exitDegraded, exitNoDomain, exitLocked, exitDenied, exitNotWindows, exitConfidential,
			exitNoSpace, exitBusy, exitTooLong, exitUnsupported, exitStillPaused),
		Example: "  snap dump web01 -o /backup/\n  snap expand /backup/web01-20261122T010000Z.dmp.zst -o web01.dmp",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.dumpDomain(cmd.Context(), args[0], &o)
		},
	}
	addConnectFlag(cmd, a)
	f := cmd.Flags()
	o.fileOptions.addTo(cmd, a, "`file`, folder, or - for standard output (default ./{domain}-{time}.dmp.zst)")
	f.StringVar(&o.mode, "mode", string(capture.ModeAuto),
		"pause: the guest stands still while its pages are copied, one point in time;\n"+
			"snapshot: it runs while QEMU (9.0 or later) saves it, one point in time;\n"+
			"live: it runs, and pages are from different times;\n"+
			"auto: pause if its estimate fits --max-pause, else snapshot where it is safe")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"auto", "pause", "snapshot", "live"}, cobra.ShellCompDirectiveNoFileComp))
	o.pauseOptions.addTo(cmd)
	o.liveOptions.addTo(cmd)
	f.StringVar(&o.source, "source", string(hv.MechanismAuto),
		"direct: QEMU's memory on this host; peek: through libvirt; auto: direct where it works")
	o.lookOptions.addTo(cmd)
	f.IntVar(&o.nice, "nice", 10, "scheduling priority of snap while it doesn't hold the guest still, 0 to 19")
	f.DurationVar(&o.timeout, "timeout", 0, "give up after that long, with everything undone (default none)")
	return cmd
}

// dumpDomain is snap dump.
func (a *app) dumpDomain(ctx context.Context, ref string, o *dumpOptions) (err error) {
	job, err := o.job(a)
	if err != nil {
		return err
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	vm, closeVM, err := a.openDomain(ctx, ref)
	if err != nil {
		return fmt.Errorf("dump %s: %w", ref, err)
	}
	defer closeVM()
	id := vm.Identity()
	if _, err := readable(ctx, vm); err != nil {
		return fmt.Errorf("dump %s: %w", id.Name, busyWithDump(vm, err))
	}
	if o.held, err = a.hold(ctx, vm); err != nil {
		return fmt.Errorf("dump %s: %w", id.Name, err)
	}
	defer func() { err = o.held.end(err) }()
	out, err := a.openOutput(ctx, &o.fileOptions, id.Name)
	if err != nil {
		return fmt.Errorf("dump %s: %w", id.Name, err)
	}
	defer func() { err = out.abandon(err) }()
	job.VM = vm
	job.Write.Progress = &out.progress
	sum := a.newSummary(id, o.mode)
	warnings, err := vm.Warnings(ctx)
	if err != nil {
		return fmt.Errorf("dump %s: %w", id.Name, err)
	}
	for _, w := range warnings {
		sum.Warn("%s", w)
	}
	// Only what happens when the guest isn't held waits for others.
	lower := sync.OnceFunc(func() {
		if err := limits.Nice(o.nice); err != nil {
			a.log.Warn().Err(err).Msg("priority unchanged")
		}
	})
	saving := &savingProgress{a: a, name: id.Name}
	defer saving.end()
	job.Saving = saving.update
	var taken *capture.Result // what is known by now
	job.Writing = func(r *capture.Result) {
		taken = r
		saving.saved()
		if !r.Held {
			lower()
		}
		describeGuest(sum, r.Survey)
		addPause(sum, r)
		out.showProgress("dumping " + id.Name)
	}
	job.Write.Metadata = func(st *dump.Stats) ([]byte, error) {
		addStats(sum, st)
		addPause(sum, taken)
		o.addLive(sum, taken)
		return sum.Compact()
	}
	res, err := job.Take(o.held.whileThere(ctx), out.writer())
	out.stopProgress()
	lower()
	if err != nil {
		return pauseAdvice(fmt.Errorf("dump %s: %w", id.Name, err))
	}
	addResult(sum, res)
	o.addLive(sum, res)
	return a.finish(ctx, out, sum)
}

// job checks the flags and turns them into a capture.Job.
func (o *dumpOptions) job(a *app) (*capture.Job, error) {
	write, err := o.dumpOptions()
	if err != nil {
		return nil, err
	}
	mode := capture.Mode(o.mode)
	switch mode {
	case capture.ModeAuto, capture.ModePause, capture.ModeSnapshot, capture.ModeLive:
	default:
		return nil, usageError("--mode is %q; it can be auto, pause, snapshot or live", o.mode)
	}
	mechanism := hv.Mechanism(o.source)
	switch mechanism {
	case hv.MechanismAuto, hv.MechanismDirect, hv.MechanismPeek:
	default:
		return nil, usageError("--source is %q; it can be auto, direct or peek", o.source)
	}
	if o.nice < 0 || o.nice > 19 {
		return nil, usageError("--nice is %d; it can be 0 to 19", o.nice)
	}
	look, err := o.options()
	if err != nil {
		return nil, err
	}
	if err := o.parse(); err != nil {
		return nil, err
	}
	job := &capture.Job{Mode: mode, Mechanism: mechanism, Look: look, Write: *write, Log: a.log}
	return job, o.apply(job)
}

// fileOptions are the flags of every command that writes a dump.
type fileOptions struct {
	output   string
	compress string
	level    string
	force    bool
	cpus     int
	memory   string
	manifest bool

	held *held // who removes the file if snap is killed, nil if nobody does
}

func (o *fileOptions) addTo(cmd *cobra.Command, a *app, output string) {
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", output)
	f.StringVar(&o.compress, "compress", string(dump.CompressionZstd), "zstd, gzip or none")
	f.StringVar(&o.level, "level", string(dump.LevelFastest), "fastest, default, better or best")
	f.BoolVar(&o.force, "force", false, "replace an existing output file")
	f.IntVar(&o.cpus, "cpus", 0, "processors that snap may use (default all)")
	f.StringVar(&o.memory, "memory", "256MiB", "memory that snap may use for buffers")
	f.BoolVar(&o.manifest, "manifest", true, "write the summary to OUTPUT.json beside the dump")
	f.BoolVar(&a.json, "json", false, "print a JSON summary on standard output, and progress as JSON lines")
	_ = cmd.RegisterFlagCompletionFunc("compress", cobra.FixedCompletions([]string{"zstd", "gzip", "none"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions([]string{"fastest", "default", "better", "best"}, cobra.ShellCompDirectiveNoFileComp))
}

// dumpOptions checks the flags and applies the limits on snap itself.
func (o *fileOptions) dumpOptions() (*dump.Options, error) {
	c := dump.Compression(o.compress)
	switch c {
	case dump.CompressionZstd, dump.CompressionGzip, dump.CompressionNone:
	default:
		return nil, usageError("--compress is %q; it can be zstd, gzip or none", o.compress)
	}
	level := dump.Level(o.level)
	switch level {
	case dump.LevelFastest, dump.LevelDefault, dump.LevelBetter, dump.LevelBest:
	default:
		return nil, usageError("--level is %q; it can be fastest, default, better or best", o.level)
	}
	memory, err := humanize.ParseBytes(o.memory)
	if err != nil || memory == 0 {
		return nil, usageError("--memory is %q; it takes a size like 256MiB", o.memory)
	}
	if o.cpus < 0 {
		return nil, usageError("--cpus is %d; it takes a number from 1, or 0 for all", o.cpus)
	}
	limits.Memory(memory)
	// A quarter is left for everything that is no buffer.
	buffers := int64(min(memory, 1<<40)) / 4 * 3
	return &dump.Options{Compression: c, Level: level, Workers: limits.CPUs(o.cpus), Memory: buffers}, nil
}

// comment is what the dump's header says about its making.
func comment() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return asciiComment("snap " + version + " on " + host)
}

// asciiComment makes text fit a header's comment field.
func asciiComment(text string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return ascii[:min(len(ascii), 127)]
}
