package main

import (
	"context"
	"path/filepath"

	"snap/cmd/snap/internal/tracefile"
)

// traced does the work of a command under the trace that --trace asks for. What goes
// wrong with the trace is a warning: no dump fails for it.
func (a *app) traced(ctx context.Context, f *fileFlags, command string, work func(context.Context) error) error {
	if err := f.checkTrace(); err != nil {
		return err
	}
	if f.trace == "" {
		return work(ctx)
	}
	ctx, t, err := tracefile.Start(ctx, f.trace, f.force, "snap "+command)
	if err != nil {
		a.log.Warn().Err(err).Msg("there is no trace")
		return work(ctx)
	}
	defer func() {
		if err := t.End(); err != nil {
			a.log.Warn().Err(err).Msg("the trace is lost")
		}
	}()
	return work(ctx)
}

// checkTrace refuses a trace where the dump or its account goes, or to no file.
func (f *fileFlags) checkTrace() error {
	switch {
	case !f.traceGiven.Changed:
		return nil
	case f.trace == "" || f.trace == stdoutDestination:
		return wrongValue("trace", f.trace, "the name of a new file, such as snap.trace")
	}
	for _, taken := range []string{f.output, f.output + ".json"} {
		if f.output != "" && !f.toStdout() && samePath(f.trace, taken) {
			return usageError("--trace and -o both name %s", taken)
		}
	}
	return nil
}

// samePath reports whether both are one path, whether anything is there or not.
func samePath(a, b string) bool {
	pa, err := filepath.Abs(a)
	if err != nil {
		return false
	}
	pb, err := filepath.Abs(b)
	return err == nil && pa == pb
}
