package capture

import (
	"context"
	"errors"
	"fmt"
	"io"

	"snap/dump"
	"snap/hv"
)

// Convert writes a dump of the guest that a file holds. writing is called
// once, when the pages are about to be read.
func Convert(ctx context.Context, src hv.Source, w io.Writer, look Options, o dump.Options, writing func(*Result)) (res *Result, err error) {
	mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	cpus, err := src.Registers(ctx)
	if err != nil {
		return nil, err
	}
	s, err := Look(ctx, mem, mem.RAM(), cpus, look)
	if err != nil {
		return nil, err
	}
	res = &Result{Mechanism: mem.Mechanism(), Consistent: true}
	if len(cpus) == 0 {
		res.warn("the file holds no processor registers: the dump's contexts are those that the guest saved itself")
	}
	return res, writeSurvey(ctx, w, mem, s, res, o, writing)
}

// Repack writes an existing dump anew: the same header and pages in another
// container. What follows the last page is left out, with a warning.
func Repack(ctx context.Context, f *dump.File, w io.Writer, o dump.Options) (*dump.Stats, []string, error) {
	h, err := f.Header()
	if err != nil {
		return nil, nil, err
	}
	plan := &dump.Plan{Header: f.RawHeader(), Runs: h.Runs}
	if len(h.Runs) == 0 {
		return nil, nil, fmt.Errorf("a dump of type %v has no runs of pages: %w", h.DumpType, hv.ErrFormat)
	}
	var warnings []string
	var pages uint64
	for _, r := range h.Runs {
		pages += r.Size()
	}
	if extra := f.Size() - int64(len(plan.Header)) - int64(pages); extra > 0 {
		warnings = append(warnings, fmt.Sprintf("%d bytes after the last page (secondary data) are left out", extra))
	}
	st, err := dump.Write(ctx, w, f, plan, o)
	return st, warnings, err
}
