package main

import (
	"context"
	"errors"
	"fmt"

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
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a dump against everything that readers demand",
		Long: `Check a dump against everything that WinDbg and other readers demand: the
header, the runs against the file's size, the page tables, the KDBG at its
address, the module and process lists, each processor's context, and the
checksums of the container. The exit code is the verdict.`,
		Args:        oneArg("FILE"),
		Annotations: exitCodes(exitDenied),
		Example:     "  snap verify web01-20261122T010000Z.dmp.zst && echo good",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.verifyFile(cmd.Context(), args[0]); err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "print the verdict as JSON")
	return cmd
}

func (a *app) verifyFile(ctx context.Context, path string) error {
	f, err := a.openDump(ctx, path, "", true)
	if err != nil {
		return err
	}
	defer f.Close()
	var p dump.Progress
	stop := a.showProgress("verifying", &p)
	rep, err := verify.Verify(ctx, f, verify.Options{Progress: &p})
	stop()
	if err != nil {
		return err
	}
	v := capture.Verdict(rep)
	if err := a.printVerdict(v); err != nil {
		return err
	}
	if !v.OK {
		return &cmdError{err: errVerdict, next: "the checks marked FAIL say on what; take the dump again if you can"}
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
	t := table.Table{Columns: []string{"VERDICT", "CHECK", "DETAIL"}}
	for _, c := range v.Checks {
		word := "ok"
		if !c.OK {
			word = "FAIL"
		}
		t.Add(word, c.Name, c.Detail)
	}
	for _, name := range v.Skipped {
		t.Add("skipped", name, "needs a check that failed")
	}
	return t.Write(a.stdout, "")
}
