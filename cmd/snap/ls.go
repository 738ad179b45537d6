package main

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/catalog"
	"snap/cmd/snap/internal/table"
	"snap/header"
	"snap/manifest"
	"snap/store"
)

func newLsCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "ls [flags] DEST",
		Short: "Say which dumps lie in a folder or bucket, by their manifests",
		Long: fmt.Sprintf(`Say which dumps lie where snap dump wrote them, by the manifests beside them
(NAME.json beside NAME): of which domain and moment each is, how large, in which mode
it was taken, whether its pages are of one point in time, how it was verified, to whom
it is encrypted, and whether the guest had crashed. DEST is %s. No dump is opened.

All of that is the manifest's word. What doesn't fit it is named: a dump that isn't as
long as its manifest says is damaged; a dump without a manifest is unfinished, or no
snap wrote it; a manifest without a dump is what an interrupted snap prune leaves.

MOMENT is "one" if all pages are of one point in time, "many" if they are of different
times, and "?" if that isn't known. VERIFIED is "read back" if every byte of the file
was read back and compared, "in flight" if it was verified as it was written.`, archiveForms),
		Args:        oneArg("DEST"),
		Annotations: exitCodes(exitDenied),
		Example:     "  snap ls /backup\n  snap ls --json /backup | jq -r '.files[] | select(.state == \"damaged\").path'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.ls(cmd.Context(), args[0], all); err != nil {
				return fmt.Errorf("list the dumps of %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&all, "all", "a", false, fmt.Sprintf("name all files that are no dumps, not only %d", maxListed))
	cmd.ValidArgsFunction = completeArchives
	return cmd
}

func (a *app) ls(ctx context.Context, dest string, all bool) error {
	archive, entries, err := a.catalogue(ctx, dest)
	if err != nil {
		return err
	}
	if a.json {
		list := &lsList{Destination: dest, Files: []lsFile{}}
		for i := range entries {
			list.Files = append(list.Files, lsFileOf(archive, &entries[i]))
		}
		return a.printJSON(list)
	}
	return a.printLs(entries, all)
}

// lsList is what lies there, for programs.
type lsList struct {
	Destination string   `json:"destination"`
	Files       []lsFile `json:"files"`
}

// lsFile is a file. What its manifest says is there only if there is one.
type lsFile struct {
	Name     string        `json:"name"`
	Path     string        `json:"path"`
	State    catalog.State `json:"state"`
	Why      string        `json:"why,omitempty"`
	Size     int64         `json:"size"` // bytes
	Modified time.Time     `json:"modified,omitzero"`
	Dump     *lsDump       `json:"dump,omitempty"`
}

// lsDump is what a manifest says of its dump.
type lsDump struct {
	Domain      string               `json:"domain"`
	UUID        string               `json:"uuid,omitempty"`
	Host        string               `json:"host"`
	Started     time.Time            `json:"started,omitzero"`
	Finished    time.Time            `json:"finished,omitzero"`
	Mode        string               `json:"mode"`
	Consistent  bool                 `json:"consistent"`
	Consistency manifest.Consistency `json:"consistency"`
	Windows     string               `json:"windows,omitempty"`
	Size        uint64               `json:"expanded_size"` // bytes
	SHA256      string               `json:"sha256,omitempty"`
	EncryptedTo []string             `json:"encrypted_to,omitempty"`
	Verified    bool                 `json:"verified"`
	How         manifest.Verified    `json:"verified_how,omitempty"`
	Degraded    bool                 `json:"degraded"`
	BugCheck    *lsBugCheck          `json:"bug_check,omitempty"`
	KeptUntil   time.Time            `json:"kept_until,omitzero"`
}

// lsBugCheck is the bug check of a guest that had crashed.
type lsBugCheck struct {
	Code manifest.Hex `json:"code"`
	Name string       `json:"name,omitempty"`
}

func lsFileOf(archive store.Archive, e *catalog.Entry) lsFile {
	f := lsFile{Name: e.Name, Path: archive.Path(e.Name), State: e.State, Why: e.Why, Size: e.Size, Modified: e.Modified.UTC()}
	m := e.Account
	if m == nil {
		return f
	}
	f.Dump = &lsDump{
		Domain: m.Domain, UUID: m.UUID, Host: m.Host, Started: m.Started.UTC(), Finished: m.Finished.UTC(),
		Mode: m.Mode, Consistent: m.Moment == manifest.OnePointInTime, Consistency: m.Moment,
		Windows: m.Windows, Size: m.Expanded, SHA256: m.SHA256, EncryptedTo: m.EncryptedTo, Verified: m.Verified, How: m.How,
		Degraded: m.Degraded, BugCheck: bugCheckOf(m), KeptUntil: m.KeptUntil.UTC(),
	}
	return f
}

// bugCheckOf is the bug check of a guest that had crashed, else nil.
func bugCheckOf(m *catalog.Account) *lsBugCheck {
	if m.BugCheck == 0 || header.LiveBugCheck(m.BugCheck) {
		return nil
	}
	return &lsBugCheck{manifest.Hex(m.BugCheck), header.BugCheckName(m.BugCheck)}
}

// printLs tells a person: domain by domain, and then what is no dump with a manifest.
func (a *app) printLs(entries []catalog.Entry, all bool) error {
	var rest []*catalog.Entry
	for i := 0; i < len(entries); {
		first := &entries[i]
		if first.Account == nil || first.State == catalog.NoDump {
			rest = append(rest, first)
			i++
			continue
		}
		var of []*catalog.Entry
		for ; i < len(entries) && sameDomain(first, &entries[i]); i++ {
			if entries[i].State == catalog.NoDump {
				rest = append(rest, &entries[i])
				continue
			}
			of = append(of, &entries[i])
		}
		if err := a.printDumps(of); err != nil {
			return err
		}
	}
	return a.printRest(rest, len(rest) < len(entries), all)
}

func sameDomain(a, b *catalog.Entry) bool {
	return b.Account != nil && a.Account.Domain == b.Account.Domain && a.Account.UUID == b.Account.UUID
}

// printDumps tells of the dumps of one domain.
func (a *app) printDumps(of []*catalog.Entry) error {
	t := table.Table{
		Columns: []string{"WHEN (UTC)", "SIZE", "MODE", "MOMENT", "VERIFIED", "FILE"},
		Right:   map[string]bool{"SIZE": true},
		Width:   terminalColumns(a.stdout),
		Most:    map[string]int{"MODE": 8},
	}
	size := uint64(0)
	for _, e := range of {
		size += uint64(e.Size)
		t.Add(whenCell(e.When()), humanize.IBytes(uint64(e.Size)), printable(brief(e.Account.Mode)), momentCell(e.Account.Moment), verifiedCell(e.Account), printable(e.Name))
		for _, note := range notesOf(e) {
			t.Add("", "", "", "", "", note)
		}
	}
	name := named(of[0].Account.Domain, of[0].Account.UUID)
	if _, err := fmt.Fprintf(a.stdout, "%s: %s, %s\n", name, plural(len(of), "dump"), humanize.IBytes(size)); err != nil {
		return err
	}
	if err := t.Write(a.stdout, "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout)
	return err
}

// notesOf says what isn't as it is with most dumps.
func notesOf(e *catalog.Entry) (notes []string) {
	if e.State == catalog.Damaged {
		notes = append(notes, "DAMAGED: "+e.Why)
	}
	if to := e.Account.EncryptedTo; len(to) > 0 {
		notes = append(notes, "encrypted to "+printable(encryptedTo(to)))
	}
	if b := bugCheckOf(e.Account); b != nil {
		note := "bug check " + b.Code.String()
		if b.Name != "" {
			note += " " + b.Name
		}
		notes = append(notes, note)
	}
	if !e.Account.KeptUntil.IsZero() {
		notes = append(notes, "kept until "+clock(e.Account.KeptUntil))
	}
	if e.Account.Degraded {
		notes = append(notes, "degraded: its warnings are in the manifest")
	}
	return notes
}

// printRest tells of what is no dump with a manifest; more says that something was
// told before.
func (a *app) printRest(rest []*catalog.Entry, more, all bool) error {
	if len(rest) == 0 && !more {
		_, err := fmt.Fprintln(a.stdout, "there are no files")
		return err
	}
	for _, s := range []struct {
		state catalog.State
		title string
	}{
		{catalog.NoManifest, "Dumps without a manifest"},
		{catalog.NoDump, "Manifests without a dump"},
		{catalog.Foreign, "Other files"},
	} {
		t := table.Table{Columns: []string{"WHEN (UTC)", "SIZE", "FILE", "WHY"}, Right: map[string]bool{"SIZE": true}, Width: terminalColumns(a.stdout)}
		if t.Width > 0 {
			t.Most = map[string]int{"FILE": 30}
		}
		n := 0
		for _, e := range rest {
			if e.State != s.state {
				continue
			}
			if n++; n <= maxListed || all {
				t.Add(whenCell(e.When()), humanize.IBytes(uint64(e.Size)), printable(brief(e.Name)), printable(brief(e.Why)))
			}
		}
		if n == 0 {
			continue
		}
		if n > t.Len() {
			t.Add("", "", fmt.Sprintf("… %d more", n-t.Len()), "")
		}
		if _, err := fmt.Fprintf(a.stdout, "%s: %d\n", s.title, n); err != nil {
			return err
		}
		if err := t.Write(a.stdout, "  "); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

func whenCell(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

func momentCell(c manifest.Consistency) string {
	switch c {
	case manifest.OnePointInTime:
		return "one"
	case manifest.DifferentTimes:
		return "many"
	}
	return "?"
}

func verifiedCell(m *catalog.Account) string {
	switch {
	case !m.Verified:
		return "no"
	case m.How != "":
		return string(m.How)
	}
	return "yes"
}
