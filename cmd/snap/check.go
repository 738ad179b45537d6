package main

import (
	"context"
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/cmd/snap/internal/table"
	"snap/dump"
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
	Warnings      []string             `json:"warnings"`
	exclusions    *manifest.Manifest
	crFrom        string
}

func newCheckCommand(a *app) *cobra.Command {
	var source string
	var look lookOptions
	var pause pauseOptions
	cmd := &cobra.Command{
		Use:   "check [flags] DOMAIN",
		Short: "Say whether a dump would work, how long and how big; change nothing",
		Long: `Say whether a dump of DOMAIN would work, by which source and mode, how long it
would take and how big it would be. The guest is neither paused nor changed; a
sample of its pages is read, copied and compressed for the estimates. Of mode
pause there are two: with the guest's pages copied first, which is what snap dump
does where they fit the spool, and without.`,
		Args: oneArg("DOMAIN"),
		Annotations: exitCodes(exitNoDomain, exitDenied, exitNotWindows, exitConfidential, exitBusy,
			exitUnsupported),
		Example: "  snap check web01",
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := look.options()
			if err != nil {
				return err
			}
			job := &capture.Job{Mechanism: hv.Mechanism(source), Look: o}
			if err := pause.apply(job); err != nil {
				return err
			}
			if err := a.check(cmd.Context(), args[0], job); err != nil {
				return fmt.Errorf("check %s: %w", args[0], err)
			}
			return nil
		},
	}
	addConnectFlag(cmd, a)
	cmd.Flags().StringVar(&source, "source", string(hv.MechanismAuto), "direct, peek or auto")
	look.addTo(cmd)
	pause.addTo(cmd)
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

func (a *app) check(ctx context.Context, ref string, job *capture.Job) error {
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
	job.VM = vm
	mem, err := vm.OpenMemory(ctx, job.Mechanism)
	if err != nil {
		return err
	}
	defer mem.Close()
	r.Source = string(mem.Mechanism())
	s, err := lookAt(ctx, vm, mem, job.Look)
	if err != nil {
		return err
	}
	r.addSurvey(s)
	e, err := s.Estimate(ctx, mem, dump.Options{})
	if err != nil {
		return err
	}
	r.addEstimate(e)
	if r.Modes, err = modesOf(ctx, r.State, mem, job, s, e); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	return a.printCheck(r)
}

func (r *checkResult) addSurvey(s *capture.Survey) {
	var sum manifest.Manifest
	describeGuest(&sum, s)
	r.Guest, r.Header, r.exclusions = sum.Guest, sum.Header, &sum
	r.ExcludedPages, r.Excluded, r.Refused = sum.Pages.Excluded, sum.Excluded, sum.Refused
	r.crFrom = s.System.DirectoryTableBase.From
	for _, p := range s.System.Processors {
		if p.VCPU >= 0 && p.ContextAt != 0 {
			r.Matched++
		}
	}
	r.Warnings = append(r.Warnings, s.Warnings...)
}

func (r *checkResult) addEstimate(e *capture.Estimate) {
	r.Pages, r.Populated, r.DumpBytes, r.Bytes = e.Pages, e.Populated, e.DumpBytes, e.Bytes
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
	if t := exclusionTable(r.exclusions); t.Len() > 0 {
		fmt.Fprintf(a.stdout, "\nPages to leave out: %s\n", humanize.Comma(int64(r.ExcludedPages)))
		if err := t.Write(a.stdout, "  "); err != nil {
			return err
		}
	}
	for _, w := range r.Warnings {
		a.log.Warn().Msg(w)
	}
	return nil
}
