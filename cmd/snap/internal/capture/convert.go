package capture

import (
	"context"
	"errors"
	"fmt"
	"io"

	"snap/dump"
	"snap/hv"
	"snap/phys"
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
	plan, err := f.Plan()
	if err != nil {
		return nil, nil, err
	}
	var warnings []string
	if extra := uint64(f.Size()) - end(f); extra > 0 {
		warnings = append(warnings, fmt.Sprintf("%d bytes after the last page (secondary data) are left out", extra))
	}
	st, err := dump.Write(ctx, w, f, plan, o)
	return st, warnings, err
}

// end returns the offset of the first byte after the last page of f.
func end(f *dump.File) uint64 {
	first := uint64(len(f.RawHeader()))
	if b := f.Bitmap(); b != nil {
		first = b.FirstPage
	}
	return min(uint64(f.Size()), first+f.RAM().Pages()<<phys.PageShift)
}
