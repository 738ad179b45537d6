package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	Would         bool                 `json:"would"`     // a dump with these flags would be written
	ExitCode      int                  `json:"exit_code"` // that snap dump would end with
	Why           string               `json:"why,omitempty"`
	Next          string               `json:"next,omitempty"`
	Also          []string             `json:"also,omitempty"` // what else is in the way
	UUID          string               `json:"uuid,omitempty"`
	State         hv.State             `json:"state,omitempty"`
	Output        string               `json:"output,omitempty"`
	Space         *uint64              `json:"space_left,omitempty"` // at the destination, where it is known
	Source        string               `json:"source,omitempty"`
	Guest         *manifest.Guest      `json:"guest,omitempty"`
	Header        *manifest.Header     `json:"header,omitempty"`
	Matched       int                  `json:"processors_matched"` // to vCPUs: their contexts will be in the dump
	Pages         uint64               `json:"pages"`
	Populated     uint64               `json:"pages_to_read"`
	DumpBytes     uint64               `json:"dump_bytes"`
	Bytes         uint64               `json:"bytes_estimate"`
	Modes         []modeEstimate       `json:"modes"`
	ExcludedPages uint64               `json:"pages_excluded"`
	Excluded      []manifest.Exclusion `json:"excluded"`
	Unmet         *manifest.Unmet      `json:"unmet,omitempty"`
	Refused       []manifest.Exclusion `json:"refused_exclusions"`
	RAM           uint64               `json:"pages_of_ram"`
	Unlisted      uint64               `json:"pages_unlisted"`   // that Windows doesn't list as its memory
	Hidden        uint64               `json:"pages_hidden"`     // of these, not in the dump
	Attempts      []attemptInfo        `json:"attempts"`         // to find Windows in the guest's memory
	Search        *lookedFor           `json:"search,omitempty"` // for Windows, where none was found
	Warnings      []string             `json:"warnings"`
	contents      []string             // those of Warnings that nothing silences
	id            hv.Identity
	VTL1          manifest.VTL1      `json:"vtl1,omitempty"` // whether the file would hold memory of a secure kernel
	account       *manifest.Manifest // nil if the guest can't be looked at
	crFrom        string
}

// errWouldDegrade ends a check of a dump that would be written, but end with
// exitDegraded.
var errWouldDegrade = errors.New("the dump would be written but degraded")

func newCheckCommand(a *app) *cobra.Command {
	var f dumpFlags
	cmd := &cobra.Command{
		Use:   "check [flags] DOMAIN",
		Short: "Say whether a dump would work, how long and how big; change nothing",
		Long: `Say whether a dump of DOMAIN would work, by which source and mode, how long it
would take and how big it would be. It takes the flags of snap dump, goes the way
that snap dump goes up to where the guest would be touched, and ends with the exit
code that snap dump would end with: the domain, another dump of it, the destination
and its space, what is asked to be left out, the mode and its pause are looked at. A
destination that isn't named is the one that snap dump would choose.

The guest is neither paused nor changed, and nothing is written; a sample of its
pages is read, copied and compressed for the estimates. Of mode pause there are two:
with the guest's pages copied first, which is what snap dump does where they fit the
spool, and without. With -v it says which ways were tried to find Windows in the
guest's memory, and what came of them.`,
		Args:        oneArg("DOMAIN"),
		Annotations: dumpExitCodes(),
		Example:     "  snap check web01\n  snap check web01 -o /backup/ --max-pause 1s && snap dump web01 -o /backup/ --max-pause 1s",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.traced(cmd.Context(), &f.file, "check", func(ctx context.Context) error {
				return a.check(ctx, args[0], &f)
			})
		},
	}
	f.addTo(cmd, a)
	cmd.Flags().Lookup("json").Usage = "print JSON"
	return cmd
}

// check is snap check.
func (a *app) check(ctx context.Context, ref string, f *dumpFlags) error {
	o, err := f.options(ctx, a)
	if err != nil {
		return err
	}
	o.Observer = capture.ObserverFunc(f.processors)
	ctx, cancel := f.within(ctx)
	defer cancel()
	r := &checkResult{Domain: ref, Warnings: []string{}, Modes: []modeEstimate{}, Attempts: []attemptInfo{}}
	err = f.explain(ctx, a.look(ctx, ref, f, o, r))
	var told error
	if a.json {
		r.conclude(a.call, err)
		told = a.printJSON(r)
	} else {
		code, _ := classify(err)
		told = a.printCheck(r, code)
	}
	if err != nil {
		err = fmt.Errorf("check %s: %w", r.Domain, err)
	}
	return errors.Join(err, told)
}

// conclude adds the verdict: err is what snap dump would end with.
func (r *checkResult) conclude(c call, err error) {
	r.ExitCode, r.Next = c.classify(err)
	r.Would = r.ExitCode == exitOK || r.ExitCode == exitDegraded
	if err != nil {
		r.Why = err.Error()
	}
}

// look goes the way of a dump and notes what it sees. The error is what the dump
// would end with.
func (a *app) look(ctx context.Context, ref string, f *dumpFlags, o *capture.Options, r *checkResult) (err error) {
	p, err := a.approach(ctx, ref, f, o, lookAtLock, true)
	if p == nil {
		return err
	}
	defer func() { err = p.close(err) }()
	r.id, r.Domain, r.UUID, r.State = p.id, p.id.Name, p.id.UUID, p.state
	errs := p.errs
	if p.place != nil {
		r.Output = p.place.Path(p.file)
		if s, err := p.place.Space(ctx); err == nil && s.Known {
			r.Space = &s.Sure
		}
	}
	var degraded []string
	if p.readable {
		c := capture.Prepare(ctx, p.vm, p.place, p.file, *o)
		defer func() { err = errors.Join(err, c.Close()) }()
		if c.Err() != nil {
			errs = append(append(errs, takeAdvice(c.Err())), c.Also()...)
		}
		degraded = c.Degraded
		r.Warnings = append(r.Warnings, c.Warnings...)
		if c.Session == nil {
			if r.Search = lookedForIn(c.Err()); r.Search != nil {
				r.Attempts = r.Search.Attempts
			}
		} else if err := r.addSession(ctx, c.Session); err != nil && len(errs) == 0 {
			errs = append(errs, err)
		}
	} else if p.place != nil {
		// The guest's memory is out of reach, its destination isn't.
		if err := o.MayCreate(ctx, p.place, p.file); err != nil {
			errs = append(errs, takeAdvice(err))
		}
	}
	if len(errs) > 0 {
		for _, also := range errs[1:] {
			r.Also = append(r.Also, also.Error())
		}
		return errs[0]
	}
	if len(degraded) > 0 {
		return &cmdError{
			err: fmt.Errorf("%w: %s", errWouldDegrade, strings.Join(degraded, "; ")), code: exitDegraded,
			next: "take it if that will do; what is written can be checked with snap verify",
		}
	}
	return nil
}

// addSession adds what is known of the guest, and what each mode would take.
func (r *checkResult) addSession(ctx context.Context, s *capture.Session) error {
	r.Source = string(s.Memory.Mechanism())
	r.addAnalysis(s.Analysis)
	return r.addEstimates(ctx, s)
}

func (r *checkResult) addAnalysis(an *capture.Analysis) {
	r.account = capture.Describe(an)
	r.Guest, r.Header = &r.account.Guest, &r.account.Header
	r.ExcludedPages, r.Excluded, r.Refused = r.account.Pages.Excluded, r.account.Excluded, r.account.Refused
	r.Unmet, r.RAM, r.Unlisted, r.Hidden = r.account.Unmet, r.account.Pages.RAM, r.account.Pages.Unlisted, r.account.Pages.Hidden
	r.Attempts = attemptsOf(an.System.Attempts)
	r.VTL1 = r.account.VTL1
	r.crFrom = an.System.DirectoryTableBase.From
	for _, p := range an.System.Processors {
		if p.VCPU >= 0 && p.ContextAt != 0 {
			r.Matched++
		}
	}
	r.Warnings, r.contents = append(r.Warnings, an.Warnings...), an.Contents
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
	Spooled    bool    `json:"spooled"`               // the guest stands still for a copy only
	Fits       bool    `json:"fits"`                  // it can be taken, and its pause is not too long
	Why        string  `json:"why,omitempty"`         // it can't be taken at all
	PauseMS    float64 `json:"pause_estimate_ms"`     // what is likely
	PauseMaxMS float64 `json:"pause_estimate_max_ms"` // what it should not exceed
	Confidence string  `json:"pause_estimate_confidence,omitempty"`
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
	m.PauseMS, m.PauseMaxMS, m.DurationMS = milliseconds(e.StandsStill.Likely), milliseconds(e.StandsStill.Most), milliseconds(e.Takes)
	if e.Pause != nil {
		m.Confidence = string(e.Pause.Confidence())
	}
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

// verdict is the first line of a check.
func (r *checkResult) verdict(code int) string {
	switch code {
	case exitOK:
		return fmt.Sprintf("A dump of %s would work.", r.Domain)
	case exitDegraded:
		return fmt.Sprintf("A dump of %s would be written, but degraded: exit code %d.", r.Domain, code)
	}
	why := ""
	if code != exitFailed {
		why = ", " + exitMeaning[code]
	}
	return fmt.Sprintf("A dump of %s would NOT work: exit code %d%s.", r.Domain, code, why)
}

// kdbgState says where the KDBG is, and what becomes of it.
func kdbgState(g *manifest.Guest) string {
	switch {
	case g.KDBG == 0:
		return "none that can be used"
	case g.KDBGEncoded:
		return fmt.Sprintf("%v, encoded: the dump gets it decoded", g.KDBG)
	}
	return fmt.Sprintf("%v, plain", g.KDBG)
}

func (a *app) printCheck(r *checkResult, code int) error {
	fmt.Fprintf(a.stdout, "%s\n\n", r.verdict(code))
	p := table.NewPairs(a.stdout)
	if r.State != "" {
		p.Add("domain", "%s, %s", r.Domain, r.State)
		if next := stateAdvice(r.State, r.id); next != "" && code == exitOK {
			p.Add("", "it %s", r.State.Condition().Says)
			p.Add("next", "%s", next)
		}
	}
	if r.account != nil {
		p.Add("guest", "%s, %s (%d of them matched to vCPUs)", r.Guest.Windows, plural(r.Guest.CPUs, "processor"), r.Matched)
		p.Add("System CR3", "%v, from %s", r.Guest.SystemCR3, dash(r.crFrom))
		p.Add("KDBG", "%s", kdbgState(r.Guest))
		if v := r.Guest.VBS; v != nil {
			p.Add("VBS", "%s", vbsLine(v))
		}
		if r.VTL1 != "" {
			p.Add("VTL1", "%s", vtl1Line(r.VTL1))
		}
		p.Add("source", "%s", r.Source)
		p.Add("memory", "%s in %s, %s of it to read", humanize.IBytes(r.Pages<<phys.PageShift), plural(r.Header.Runs, "run"), humanize.IBytes(r.Populated<<phys.PageShift))
		p.Add("size", "about %s, %s when expanded", humanize.IBytes(r.Bytes), humanize.IBytes(r.DumpBytes))
		addLeftOut(p, r.account)
	}
	if r.Output != "" {
		p.Add("output", "%s", r.Output)
	}
	if r.Space != nil {
		p.Add("", "%s are left there", humanize.IBytes(*r.Space))
	}
	for i, also := range r.Also {
		p.Add(map[bool]string{true: "also"}[i == 0], "%s", also)
	}
	if err := p.Flush(); err != nil {
		return err
	}
	if r.account != nil {
		if err := a.printSession(r); err != nil {
			return err
		}
	}
	if a.verbose && len(r.Attempts) > 0 && r.Search == nil { // that of an error is told with it
		if err := printAttempts(a.stdout, r.Attempts); err != nil {
			return err
		}
	}
	a.warnOf(r.Warnings, r.contents, code == exitDegraded)
	return nil
}

// printSession prints what each mode would take, and what would be left out.
func (a *app) printSession(r *checkResult) error {
	fmt.Fprintln(a.stdout)
	t := table.Table{
		Columns: []string{"MODE", "GUEST STANDS STILL", "TAKES", "ONE POINT IN TIME"}, Width: terminalColumns(a.stdout),
	}
	if t.Width < 100 {
		t.Most = map[string]int{"GUEST STANDS STILL": 26}
	}
	for _, m := range r.Modes {
		if m.Why != "" {
			t.Add(m.Mode, "can't be taken", "", "")
			continue
		}
		pause := "not at all"
		switch {
		case r.State.Still():
			pause = "stands still already"
		case m.PauseMS > 0:
			pause = between(m.PauseMS, m.PauseMaxMS)
			if m.Confidence != "" {
				pause += " (" + m.Confidence + " confidence)"
			}
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
	return nil
}
