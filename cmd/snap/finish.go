package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/dump"
	"snap/dump/verify"
	"snap/manifest"
	"snap/store"
)

// errDegraded ends a command whose dump was written but is not what it should
// be; the warnings say why.
var errDegraded = errors.New("the dump was written but is degraded")

// finish verifies what was written, gives it its name, writes the manifest and
// tells the operator.
func (a *app) finish(ctx context.Context, out *output, sum *manifest.Manifest) error {
	sum.Output, sum.SHA256 = out.path(), out.file.Sum()
	ok, err := a.verifyAndCommit(ctx, out, sum)
	if err != nil {
		return err
	}
	degraded := !ok || sum.Pages.Unreadable > 0 || smeared(sum)
	sum.Finished = time.Now().UTC()
	sum.DurationMS = milliseconds(sum.Finished.Sub(sum.Started))
	if degraded {
		sum.ExitCode = exitDegraded
	}
	doc, err := sum.JSON()
	if err != nil {
		return err
	}
	if out.manifest {
		if err := out.writeManifest(ctx, doc); err != nil {
			return next(err, "the dump itself is whole: %s", out.path())
		}
	}
	if err := a.tell(sum, doc); err != nil {
		return err
	}
	if degraded {
		return &cmdError{err: errDegraded, code: exitDegraded, next: "read the warnings above; snap info and snap verify tell more"}
	}
	return nil
}

// verifyAndCommit gives the file its name once it was read back, and reports
// whether it is known to be all that readers demand.
func (a *app) verifyAndCommit(ctx context.Context, out *output, sum *manifest.Manifest) (bool, error) {
	ok, err := a.verifyOutput(ctx, out, sum)
	switch {
	case errors.Is(err, store.ErrWriteOnly):
		sum.Warn("standard output can't be read back: check the dump with snap verify")
	case err != nil:
		return false, fmt.Errorf("verify the dump of %s before it gets its name: %w", sum.Domain, err)
	}
	if err := out.file.Commit(ctx); err != nil {
		return false, fmt.Errorf("put the dump of %s in its place: %w", sum.Domain, err)
	}
	return ok, nil
}

// verifyOutput reads the file back and adds the verdict to the summary. An
// error means that the file is not even what was meant to be written.
func (a *app) verifyOutput(ctx context.Context, out *output, sum *manifest.Manifest) (bool, error) {
	f, err := out.reopen(ctx)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var p dump.Progress
	stop := a.showProgress("verifying", &p)
	defer stop()
	rep, err := verify.Verify(ctx, f, verify.Options{Progress: &p})
	if err != nil {
		return false, err
	}
	sum.Verify = verdict(rep)
	for _, c := range rep.Failed() {
		if c.Name == verify.CheckFrames || c.Name == verify.CheckFileSize {
			return false, fmt.Errorf("%s: %s", c.Name, c.Detail)
		}
		sum.Warn("verification failed: %s: %s", c.Name, c.Detail)
	}
	return rep.OK, nil
}

func verdict(r *verify.Report) *manifest.Verify {
	v := &manifest.Verify{OK: r.OK, Skipped: r.Skipped}
	for _, c := range r.Checks {
		v.Checks = append(v.Checks, manifest.Check{Name: c.Name, OK: c.OK, Detail: c.Detail})
	}
	return v
}
