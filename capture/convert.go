package capture

import (
	"context"
	"errors"
	"fmt"
	"io"

	"snap/dump"
	"snap/guest"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// convertMode is what the manifest of a dump made from a file calls its mode.
const convertMode = "convert"

// Convert makes a dump of the guest that src holds, as Take does of a VM. id
// names the guest for the account. src stays the caller's.
func Convert(ctx context.Context, src hv.Source, id hv.Identity, place store.Place, name string, o Options) (*Result, error) {
	man := newManifest(id, convertMode, &o)
	return produce(ctx, place, name, &o, man, func(w io.Writer) (_ *Result, err error) {
		mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, mem.Close()) }()
		m := &Moment{Memory: mem, Account: Account{Mode: convertMode, Mechanism: mem.Mechanism(), Consistent: true}, ctx: ctx}
		if m.CPUs, err = src.Registers(ctx); err != nil {
			return nil, err
		}
		a, err := Analyze(ctx, mem, mem.RAM(), m.CPUs, o.Look)
		if err != nil {
			return nil, err
		}
		if len(m.CPUs) == 0 {
			m.Account.warn("the file holds no processor registers: the dump's contexts are those that the guest saved itself")
		}
		warning, err := o.fits(ctx, place, name, a.Plan, func() (*Sample, error) {
			set, _, err := mem.Populated(ctx)
			if err != nil {
				return nil, err
			}
			return sampleDump(ctx, mem, a.Plan, set, o.writeOptions())
		})
		if err != nil {
			return nil, err
		}
		if warning != "" {
			m.Account.warn("%s", warning)
		}
		return o.writeMoment(m, a, w, man)
	})
}

// Repack writes an existing dump anew, as Take does of a VM: the same header and
// pages in another container. What follows the last page is left out, with a
// warning. id names the dump for the account.
func Repack(ctx context.Context, f *dump.File, id hv.Identity, place store.Place, name string, o Options) (*Result, error) {
	man := newManifest(id, convertMode, &o)
	return produce(ctx, place, name, &o, man, func(w io.Writer) (*Result, error) {
		acc := Account{Mode: convertMode, Mechanism: "dump", Consistent: true}
		man.Source, man.Consistent = string(acc.Mechanism), acc.Consistent
		describeDump(ctx, man, f)
		plan, err := f.Plan()
		if err != nil {
			return nil, err
		}
		if extra := uint64(f.Size()) - end(f); extra > 0 {
			acc.warn("%d bytes after the last page (secondary data) are left out", extra)
		}
		warning, err := o.fits(ctx, place, name, plan, func() (*Sample, error) { return sampleDump(ctx, f, plan, f.RAM(), o.writeOptions()) })
		if err != nil {
			return nil, err
		}
		if warning != "" {
			acc.warn("%s", warning)
		}
		wo := o.Write
		wo.Progress = new(dump.Progress)
		wo.Metadata = func(st *dump.Stats) ([]byte, error) {
			addStats(man, st)
			return man.Compact()
		}
		o.tell(Event{Phase: PhaseWrite, Progress: wo.Progress})
		st, err := dump.Write(ctx, w, f, plan, wo)
		if err != nil {
			return nil, err
		}
		addStats(man, st)
		for _, w := range acc.Warnings {
			man.Warn("%s", w)
		}
		return &Result{Account: acc, Stats: st, Manifest: man}, nil
	})
}

// end returns the offset of the first byte after the last page of f.
func end(f *dump.File) uint64 {
	first := uint64(len(f.RawHeader()))
	if b := f.Bitmap(); b != nil {
		first = b.FirstPage
	}
	return min(uint64(f.Size()), first+f.RAM().Pages()<<phys.PageShift)
}

// describeDump adds what is in an existing dump to the account.
func describeDump(ctx context.Context, man *manifest.Manifest, f *dump.File) {
	h, err := f.Header()
	if err != nil {
		man.Warn("the dump's header can't be read: %v", err)
		return
	}
	man.Header = manifest.Header{DumpType: int(h.DumpType), Runs: len(f.RAM()), Fields: map[string]manifest.Field{}}
	sys, err := OpenDump(ctx, f)
	if err != nil {
		man.Warn("the guest in the dump can't be read: %v", err)
		return
	}
	man.Guest = DescribeGuest(sys)
}

// OpenDump finds the guest in a dump by what its header says.
func OpenDump(ctx context.Context, f *dump.File) (*guest.System, error) {
	h, err := f.Header()
	if err != nil {
		return nil, fmt.Errorf("read the dump's header: %w", err)
	}
	return guest.Open(ctx, f, f.RAM(), h.DirectoryTableBase&^(phys.PageSize-1), h.KdDebuggerDataBlock)
}
