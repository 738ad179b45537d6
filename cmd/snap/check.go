package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// checkResult is what snap check found.
type checkResult struct {
	Domain        string               `json:"domain"`
	UUID          string               `json:"uuid,omitempty"`
	State         hv.State             `json:"state"`
	Source        string               `json:"source"`
	Guest         manifest.Guest       `json:"guest"`
	Header        manifest.Header      `json:"header"`
	Matched       int                  `json:"processors_matched"` // to vCPUs: their contexts will be in the dump
	Pages         uint64               `json:"pages"`
	Populated     uint64               `json:"pages_to_read"`
	DumpBytes     uint64               `json:"dump_bytes"`
	Bytes         uint64               `json:"bytes_estimate"`
	Modes         []modeEstimate       `json:"modes"`
	ExcludedPages uint64               `json:"pages_excluded"`
	Excluded      []manifest.Exclusion `json:"excluded"`
	Refused       []manifest.Exclusion `json:"refused_exclusions"`
	Attempts      []attemptInfo        `json:"attempts"` // to find Windows in the guest's memory
	Warnings      []string             `json:"warnings"`
	account       *manifest.Manifest
	crFrom        string
}

func newCheckCommand(a *app) *cobra.Command {
	var source choice[hv.Mechanism]
	var look lookFlags
	var pause pauseFlags
	cmd := &cobra.Command{
		Use:   "check [flags] DOMAIN",
		Short: "Say whether a dump would work, how long and how big; change nothing",
		Long: `Say whether a dump of DOMAIN would work, by which source and mode, how long it
would take and how big it would be. The guest is neither paused nor changed; a
sample of its pages is read, copied and compressed for the estimates. Of mode
pause there are two: with the guest's pages copied first, which is what snap dump
does where they fit the spool, and without. With -v it says which ways were tried
to find Windows in the guest's memory, and what came of them.`,
		Args: oneArg("DOMAIN"),
		Annotations: exitCodes(exitNoDomain, exitDenied, exitNotWindows, exitConfidential, exitBusy,
			exitUnsupported),
		Example: "  snap check web01",
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := look.options()
			if err != nil {
				return err
			}
			o := &capture.Options{Mechanism: source.value, Look: l, Log: a.slogger()}
			if err := pause.apply(o); err != nil {
				return err
			}
			if err := a.check(cmd.Context(), args[0], o); err != nil {
				return fmt.Errorf("check %s: %w", args[0], err)
			}
			return nil
		},
	}
	addConnectFlag(cmd, a)
	addSourceFlag(cmd, &source)
	look.addTo(cmd)
	pause.addTo(cmd)
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

func (a *app) check(ctx context.Context, ref string, o *capture.Options) error {
	vm, closeVM, err := a.openDomain(ctx, ref)
	if err != nil {
		return err
	}
	defer closeVM()
	id := vm.Identity()
	r := &checkResult{Domain: id.Name, UUID: id.UUID, Warnings: []string{}}
	if r.State, err = readable(ctx, vm); err != nil {
		return err
	}
	warnings, err := vm.Warnings(ctx)
	if err != nil {
		return err
	}
	r.Warnings = append(r.Warnings, warnings...)
	s, err := capture.Open(ctx, vm, *o)
	if err != nil {
		return a.tellAttempts(err)
	}
	defer s.Close()
	r.Source = string(s.Memory.Mechanism())
	r.addAnalysis(s.Analysis)
	if err := r.addEstimates(ctx, s); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	return a.printCheck(r)
}

func (r *checkResult) addAnalysis(an *capture.Analysis) {
	r.account = capture.Describe(an)
	r.Guest, r.Header = r.account.Guest, r.account.Header
	r.ExcludedPages, r.Excluded, r.Refused = r.account.Pages.Excluded, r.account.Excluded, r.account.Refused
	r.Attempts = attemptsOf(an.System.Attempts)
	r.crFrom = an.System.DirectoryTableBase.From
	for _, p := range an.System.Processors {
		if p.VCPU >= 0 && p.ContextAt != 0 {
			r.Matched++
		}
	}
	r.Warnings = append(r.Warnings, an.Warnings...)
}

// addEstimates adds what each mode would take.
func (r *checkResult) addEstimates(ctx context.Context, s *capture.Session) error {
	sample, err := s.Sample(ctx)
	if err != nil {
		return err
	}
	r.Pages, r.Populated, r.DumpBytes, r.Bytes = sample.Pages, sample.Populated, sample.DumpBytes, sample.Bytes
	all, err := s.Estimates(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		r.Modes = append(r.Modes, estimateOf(e, s.Options.MaxPause))
	}
	return nil
}

// modeEstimate is what a dump would take in one mode.
type modeEstimate struct {
	Mode       string  `json:"mode"`
	Spooled    bool    `json:"spooled"`       // the guest stands still for a copy only
	Fits       bool    `json:"fits"`          // it can be taken, and its pause is not too long
	Why        string  `json:"why,omitempty"` // it can't be taken at all
	PauseMS    float64 `json:"pause_estimate_ms"`
	DurationMS float64 `json:"duration_estimate_ms"`
	Consistent bool    `json:"consistent"`
}

func estimateOf(e capture.Estimate, limit time.Duration) modeEstimate {
	m := modeEstimate{Mode: e.Mode, Spooled: e.Copied, Consistent: e.Consistent}
	if e.Why != nil {
		m.Why = e.Why.Error()
		return m
	}
	m.Fits = e.Reject(limit) == nil
	m.PauseMS, m.DurationMS = milliseconds(e.StandsStill), milliseconds(e.Takes)
	return m
}

// how tells the ways of one mode apart.
func how(m modeEstimate) string {
	switch {
	case m.Spooled:
		return " (copy first)"
	case m.Mode == capture.Pause{}.Name() && m.PauseMS > 0:
		return " (--spool off)"
	}
	return ""
}

func (a *app) printCheck(r *checkResult) error {
	fmt.Fprintf(a.stdout, "A dump of %s would work.\n\n", r.Domain)
	p := table.NewPairs(a.stdout)
	p.Add("domain", "%s, %s", r.Domain, r.State)
	p.Add("guest", "%s, %s (%d of them matched to vCPUs)", r.Guest.Windows, plural(r.Guest.CPUs, "processor"), r.Matched)
	p.Add("System CR3", "%v, from %s", r.Guest.SystemCR3, dash(r.crFrom))
	p.Add("KDBG", "%v, %s", r.Guest.KDBG, map[bool]string{true: "encoded: the dump gets it decoded", false: "plain"}[r.Guest.KDBGEncoded])
	p.Add("source", "%s", r.Source)
	p.Add("memory", "%s in %s, %s of it to read", humanize.IBytes(r.Pages<<phys.PageShift), plural(r.Header.Runs, "run"), humanize.IBytes(r.Populated<<phys.PageShift))
	p.Add("size", "about %s, %s when expanded", humanize.IBytes(r.Bytes), humanize.IBytes(r.DumpBytes))
	if err := p.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	t := table.Table{Columns: []string{"MODE", "GUEST STANDS STILL", "TAKES", "ONE POINT IN TIME"}}
	for _, m := range r.Modes {
		if m.Why != "" {
			t.Add(m.Mode, "can't be taken", "", "")
			continue
		}
		pause := "not at all"
		switch {
		case r.State == hv.StatePaused:
			pause = "is paused already"
		case m.PauseMS > 0:
			pause = "about " + duration(m.PauseMS)
		}
		if !m.Fits {
			pause += ", too long"
		}
		t.Add(m.Mode+how(m), pause, "about "+duration(m.DurationMS), map[bool]string{true: "yes", false: "no"}[m.Consistent])
	}
	if err := t.Write(a.stdout, "  "); err != nil {
		return err
	}
	for _, m := range r.Modes {
		if m.Why != "" {
			fmt.Fprintf(a.stdout, "\n%s\n", m.Why)
		}
	}
	if t := exclusionTable(r.account); t.Len() > 0 {
		fmt.Fprintf(a.stdout, "\nPages to leave out: %s\n", humanize.Comma(int64(r.ExcludedPages)))
		if err := t.Write(a.stdout, "  "); err != nil {
			return err
		}
	}
	if a.verbose {
		if err := a.printAttempts(r.Attempts); err != nil {
			return err
		}
	}
	for _, w := range r.Warnings {
		a.log.Warn().Msg(w)
	}
	return nil
}
