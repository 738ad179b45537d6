package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/catalog"
	"snap/cmd/snap/internal/table"
	"snap/retention"
	"snap/store"
)

// pruneFlags are the flags of snap prune.
type pruneFlags struct {
	keep     keepFlags
	maxTotal string
	dryRun   bool
}

func newPruneCommand(a *app) *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [flags] DEST",
		Short: "Remove old dumps by a retention policy",
		Long: fmt.Sprintf(`Remove the dumps that no rule keeps from where snap dump wrote them, and their
manifests. DEST is %s. Rules count for each domain by itself, which is told by
its UUID: a domain that was renamed is still the same. A dump stays if any rule keeps
it; there must be one. --dry-run says what would go, and removes nothing.

--keep-daily 7 keeps the last dump of each of the last 7 days that have one; days
without a dump don't count. Hours, days, weeks and months are those of UTC.

Never removed are: the newest verified dump of a domain; what the place keeps itself
(retention, object lock), which is said and is no failure; a dump of the future, for
the clock was wrong then; and whatever isn't a dump that snap took of a domain, whole,
beside its manifest, and called as it was when it was written.`, archiveForms),
		Args:        oneArg("DEST"),
		Annotations: exitCodes(exitDenied),
		Example:     "  snap prune --keep-last 3 --keep-daily 7 --keep-weekly 4 --dry-run /backup",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.prune(cmd.Context(), args[0], &f); err != nil {
				return fmt.Errorf("prune %s: %w", args[0], err)
			}
			return nil
		},
	}
	f.keep.addTo(cmd, "")
	fl := cmd.Flags()
	fl.StringVar(&f.maxTotal, "max-total", "", "remove the oldest of what rules keep, of all domains, until the rest has at most\n`SIZE`")
	fl.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be removed, and remove nothing")
	fl.BoolVar(&a.json, "json", false, "print JSON")
	cmd.ValidArgsFunction = completeArchives
	return cmd
}

// policy checks the flags.
func (f *pruneFlags) policy() (retention.Policy, error) {
	p, err := f.keep.policy()
	if err != nil {
		return p, err
	}
	if f.maxTotal != "" {
		if p.MaxTotal, err = parseSize(f.maxTotal); err == nil && p.MaxTotal == 0 {
			err = errSize
		}
		if err != nil {
			return p, wrongValue("max-total", f.maxTotal, err.Error())
		}
	}
	if !p.Keeps() {
		return p, next(usageError("no rule says which dumps to keep"), "give one or more, such as --keep-last 3 --keep-daily 7, and look first with --dry-run")
	}
	return p, nil
}

// errOver ends a command whose --max-total is less than what must stay.
var errOver = errors.New("what must stay is more than --max-total allows")

// errNotRemoved ends a command that could not remove all that was to go.
var errNotRemoved = errors.New("not all could be removed")

func (a *app) prune(ctx context.Context, dest string, f *pruneFlags) error {
	policy, err := f.policy()
	if err != nil {
		return err
	}
	archive, entries, err := a.catalogue(ctx, dest)
	if err != nil {
		return err
	}
	plan := catalog.MakePlan(entries, policy, time.Now())
	r := newPruneReport(archive, dest, plan, f.dryRun)
	if f.dryRun {
		for _, v := range plan.Going() {
			r.removed(v)
		}
	} else {
		err = plan.Carry(ctx, archive, func(o catalog.Outcome) { a.pruned(r, o) })
	}
	err = errors.Join(err, r.err)
	if err == nil && plan.Over {
		err = next(fmt.Errorf("%w: %s", errOver, humanize.IBytes(plan.Kept)),
			"allow more with --max-total, or remove by hand what may go all the same: the newest verified dump of each domain stays otherwise")
	}
	if e := a.tellPrune(r); e != nil {
		return e
	}
	return err
}

// pruneReport is what became of the files, for programs.
type pruneReport struct {
	Destination string        `json:"destination"`
	DryRun      bool          `json:"dry_run"`
	Remove      []pruneFile   `json:"remove"` // what went, or would go
	Keep        []pruneFile   `json:"keep"`
	Failed      []pruneFile   `json:"failed"`
	Untouched   []pruneFile   `json:"untouched"`
	Removed     uint64        `json:"removed_bytes"`
	archive     store.Archive // of the files
	err         error         // the first failure
}

// pruneFile is a file of it.
type pruneFile struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"` // bytes
	Domain  string    `json:"domain,omitempty"`
	UUID    string    `json:"uuid,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Why     []string  `json:"why"`
}

func newPruneReport(archive store.Archive, dest string, plan *catalog.Plan, dryRun bool) *pruneReport {
	r := &pruneReport{
		Destination: dest, DryRun: dryRun, archive: archive,
		Remove: []pruneFile{}, Keep: []pruneFile{}, Failed: []pruneFile{}, Untouched: []pruneFile{},
	}
	for _, v := range plan.Verdicts {
		switch v.Action {
		case catalog.Keep:
			r.Keep = append(r.Keep, r.file(v, v.Why...))
		case catalog.Untouched:
			r.Untouched = append(r.Untouched, r.file(v, v.Why...))
		}
	}
	return r
}

func (r *pruneReport) file(v catalog.Verdict, why ...string) pruneFile {
	f := pruneFile{Name: v.Name, Path: r.archive.Path(v.Name), Size: v.Size, Why: append([]string{}, why...)}
	if m := v.Account; m != nil {
		f.Domain, f.UUID, f.Started = m.Domain, m.UUID, m.Started.UTC()
	}
	return f
}

func (r *pruneReport) removed(v catalog.Verdict) {
	r.Remove = append(r.Remove, r.file(v, v.Why...))
	r.Removed += uint64(v.Size)
}

// pruned takes account of a dump that was to go, and warns of what failed.
func (a *app) pruned(r *pruneReport, o catalog.Outcome) {
	if o.Gone {
		r.removed(o.Verdict)
	}
	switch {
	case o.Failed():
		r.Failed = append(r.Failed, r.file(o.Verdict, o.Err.Error()))
		a.log.Warn().Msg(printable(o.Err.Error()))
		if r.err == nil {
			r.err = fmt.Errorf("%w: %w", errNotRemoved, o.Err)
		}
	case o.Err != nil:
		r.Keep = append(r.Keep, r.file(o.Verdict, o.Err.Error()))
		a.log.Warn().Msg("not a failure: " + printable(o.Err.Error()))
	}
}

// tellPrune tells a program or a person.
func (a *app) tellPrune(r *pruneReport) error {
	if a.json {
		return a.printJSON(r)
	}
	if a.quiet {
		return nil
	}
	title := "removed"
	if r.DryRun {
		title = "would be removed"
	}
	for _, s := range []struct {
		title string
		files []pruneFile
		size  string
	}{
		{title, r.Remove, ", " + humanize.IBytes(r.Removed)},
		{"not removed, failed", r.Failed, ""},
		{"kept", r.Keep, ""},
		{"not touched", r.Untouched, ""},
	} {
		if _, err := fmt.Fprintf(a.stdout, "%s: %d%s\n", s.title, len(s.files), s.size); err != nil {
			return err
		}
		t := pruneTable(s.files)
		t.Width = terminalColumns(a.stdout)
		if err := t.Write(a.stdout, "  "); err != nil {
			return err
		}
	}
	return nil
}

func pruneTable(files []pruneFile) *table.Table {
	t := &table.Table{Right: map[string]bool{"SIZE": true}, Most: map[string]int{"DOMAIN": 16, "FILE": 32}}
	if len(files) == 0 {
		return t
	}
	t.Columns = []string{"WHEN (UTC)", "SIZE", "DOMAIN", "FILE", "WHY"}
	for _, f := range files {
		when := "-"
		if !f.Started.IsZero() {
			when = whenCell(f.Started)
		}
		t.Add(when, humanize.IBytes(uint64(f.Size)), dash(printable(brief(f.Domain))), printable(f.Name), printable(brief(strings.Join(f.Why, ", "))))
	}
	return t
}
