package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/dump"
	"snap/dump/verify"
	"snap/manifest"
)

// errVerdict ends snap verify on a file that failed.
var errVerdict = errors.New("the dump failed verification")

func newVerifyCommand(a *app) *cobra.Command {
	var account string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Check dumps against everything that readers demand",
		Long: `Check a dump against everything that WinDbg and other readers demand: the
header, the runs against the file's size, the page tables, the KDBG at its
address, the module and process lists, each processor's context, and the
checksums of the container. It may be anybody's: Windows', LiveKD's, a debugger's.

  FAIL    no reader can use it: the exit code is 1
  LIMIT   the readers that are named (LeechCore, memflow, radare2 …) refuse it or
          misread it; others open it
  NOTE    it differs from what snap writes, and no reader is known to mind

Of many files there is a line for each, and the checks that failed; one that can't
be opened doesn't keep the others from being checked, and the exit code is the
worst one. With --json there is then an object on a line of its own for each file.

With --manifest the dump is also held against the account that snap wrote beside it:
the file's length and SHA-256, every field of the header, and the SHA-256 of the plain
dump if --plain-sum noted it. Who wrote the account is not told by that: sign it
(--sign-key of snap dump), or keep it where nobody else writes.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("%s takes one FILE or more", cmd.CommandPath())
			}
			return nil
		},
		Annotations: exitCodes(exitDenied),
		Example:     "  snap verify web01-20261122T010000Z.dmp.zst && echo good\n  snap verify /backup/*.dmp.zst",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1 && account != "":
				return usageError("--manifest is of one dump, and %d files are named", len(args))
			case len(args) > 1:
				return a.verifyFiles(cmd.Context(), args)
			}
			v, err := a.verdictOf(cmd.Context(), args[0], account)
			if err == nil {
				err = a.printVerdict(v)
			}
			return failedVerdict(args[0], v, err)
		},
	}
	addIdentityFlag(cmd, a)
	cmd.Flags().StringVar(&account, "manifest", "", "hold the dump against its account, a `file`")
	cmd.Flags().BoolVar(&a.json, "json", false, "print the verdict as JSON; of many files one object on each line")
	return cmd
}

// failedVerdict is the error of a file that failed, or couldn't be checked.
func failedVerdict(path string, v *manifest.Verify, err error) error {
	if err == nil && !v.OK {
		err = &cmdError{err: errVerdict, next: "the checks marked FAIL say on what; take the dump again if you can"}
	}
	if err != nil {
		return interrupted(fmt.Errorf("verify %s: %w", path, err), "verify "+path, "", "")
	}
	return nil
}

// verdictOf verifies a file; account is that of its account, or empty.
func (a *app) verdictOf(ctx context.Context, path, account string) (*manifest.Verify, error) {
	var doc []byte
	if account != "" {
		var err error
		if doc, err = capture.ReadManifest(a.opener(ctx), account); err != nil {
			return nil, err
		}
	}
	f, err := a.openDump(ctx, path, "", true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var p dump.Progress
	stop := a.showProgress("verifying", "verifying "+filepath.Base(path), &p)
	rep, err := verify.Verify(ctx, f, verify.Options{Progress: &p})
	stop()
	if err != nil {
		return nil, err
	}
	v := capture.Verdict(rep)
	if account == "" {
		return v, nil
	}
	stop = a.showProgress("comparing", "comparing "+filepath.Base(path), &p)
	checks, err := capture.CheckAccount(ctx, doc, f, path, a.opener(ctx), &p)
	stop()
	for _, c := range checks {
		v.Checks = append(v.Checks, c)
		v.OK = v.OK && c.OK
	}
	return v, err
}

// fileVerdict is what is said of one of many files.
type fileVerdict struct {
	File     string `json:"file"`
	ExitCode int    `json:"exit_code"`
	OK       bool   `json:"ok"`
	Why      string `json:"why,omitempty"` // it could not be checked
	Next     string `json:"next,omitempty"`
	*manifest.Verify
}

// verifyFiles verifies many files, and says of each as soon as it is known.
func (a *app) verifyFiles(ctx context.Context, paths []string) error {
	var worst error
	code, bad := exitOK, 0
	for _, path := range paths {
		v, err := a.verdictOf(ctx, path, "")
		if ctx.Err() != nil {
			return fmt.Errorf("verify %s: %w", path, context.Cause(ctx))
		}
		failed := failedVerdict(path, v, err)
		about := a.call
		about.operand = path
		f := fileVerdict{File: path, OK: failed == nil, Verify: v}
		if f.ExitCode, f.Next = about.classify(failed); err != nil {
			f.Why = err.Error()
		}
		if err := a.printFileVerdict(&f); err != nil {
			return err
		}
		if f.ExitCode != exitOK {
			bad++
		}
		if f.ExitCode > code {
			code, worst = f.ExitCode, next(failed, "%s", f.Next)
		}
	}
	if worst == nil {
		return nil
	}
	return fmt.Errorf("%d of %s not good, the worst: %w", bad, plural(len(paths), "file"), worst)
}

// printFileVerdict prints a line on a file, and one for each check that failed.
func (a *app) printFileVerdict(f *fileVerdict) error {
	if a.json {
		return a.printJSONLine(f)
	}
	switch {
	case f.Why != "":
		_, err := fmt.Fprintf(a.stdout, "FAIL  %s: %s\n", printable(f.File), printable(f.Why))
		return err
	case f.OK && a.quiet:
		return nil
	case f.OK:
		_, err := fmt.Fprintf(a.stdout, "ok    %s: %s\n", printable(f.File), strings.TrimPrefix(verdictLine(f.Verify), "yes, "))
		return err
	}
	if _, err := fmt.Fprintf(a.stdout, "FAIL  %s: %s\n", printable(f.File), verdictLine(f.Verify)); err != nil {
		return err
	}
	for _, c := range f.Checks {
		if c.Finding() != manifest.LevelFail {
			continue
		}
		if _, err := fmt.Fprintf(a.stdout, "      %s: %s\n", c.Name, printable(c.Detail)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printVerdict(v *manifest.Verify) error {
	switch {
	case a.json:
		return a.printJSON(v)
	case a.quiet:
		return nil
	}
	t := table.Table{Columns: []string{"VERDICT", "CHECK", "DETAIL"}, Width: terminalColumns(a.stdout)}
	for _, c := range v.Checks {
		t.Add(cmp.Or(strings.ToUpper(c.Finding()), "ok"), c.Name, detailOf(&c))
	}
	for _, name := range v.Skipped {
		t.Add("skipped", name, "needs a check that failed")
	}
	return t.Write(a.stdout, "")
}

// detailOf is what was found, to whom it matters, and why snap's own dumps may have it.
func detailOf(c *manifest.Check) string {
	s := c.Detail
	if len(c.Readers) > 0 {
		s = strings.Join(c.Readers, ", ") + ": " + s
	}
	if c.Meant != "" {
		s += " (meant: " + c.Meant + ")"
	}
	return s
}

// printJSONLine prints v on a line of its own.
func (a *app) printJSONLine(v any) error { return json.NewEncoder(a.stdout).Encode(v) }
