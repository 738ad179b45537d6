package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"

	"snap/capture"
	"snap/catalog"
	"snap/manifest"
	"snap/retention"
)

// keepPolicy checks the flags of a dump by which older ones of its domain go; the
// policy keeps nothing if there are none.
func (f *dumpFlags) keepPolicy() (retention.Policy, error) {
	p, err := f.keep.policy()
	switch {
	case err != nil || !p.Keeps():
		return p, err
	case f.file.toStdout():
		return p, usageError("what goes to standard output isn't kept anywhere: --keep-last and the like need a folder")
	case !f.file.manifest:
		return p, usageError("--keep-last and the like know dumps by their manifests, which --manifest=false leaves out")
	}
	return p, nil
}

// keepAfter removes older dumps of the domain that was dumped, where its dump is. What
// fails is a warning: the dump is there.
func (a *app) keepAfter(ctx context.Context, p *approach, policy retention.Policy, res *capture.Result) {
	switch {
	case !policy.Keeps():
	case res.Degraded || res.Manifest.Verify == nil || !res.Manifest.Verify.OK:
		a.log.Warn().Msg("no older dump was removed: this one is degraded")
	default:
		if err := a.removeOlder(ctx, p, policy, res.Manifest); err != nil {
			always := a.log.Level(min(a.log.GetLevel(), zerolog.WarnLevel))
			always.Warn().Msg("older dumps of the domain could not be removed: " + printable(err.Error()))
		}
	}
}

func (a *app) removeOlder(ctx context.Context, p *approach, policy retention.Policy, m *manifest.Manifest) error {
	archive, entries, err := a.catalogue(ctx, strings.TrimSuffix(p.output(), p.file))
	if err != nil {
		return err
	}
	plan := catalog.MakePlan(entries, policy, time.Now()).Of(m.UUID, p.file)
	var failed error
	err = plan.Carry(ctx, archive, func(o catalog.Outcome) {
		if o.Gone {
			a.log.Info().Str("file", o.Name).Msgf("removed: %s, %s", printable(archive.Path(o.Name)), humanize.IBytes(uint64(o.Size)))
		}
		switch {
		case o.Failed() && failed == nil:
			failed = fmt.Errorf("%w: %w", errNotRemoved, o.Err)
		case o.Err != nil:
			a.log.Info().Msg("not removed: " + printable(o.Err.Error()))
		}
	})
	if err != nil {
		return err
	}
	return failed
}
