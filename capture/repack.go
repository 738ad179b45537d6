package capture

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"snap/dump"
	"snap/dump/verify"
	"snap/guest"
	"snap/header"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// Repack writes an existing dump anew, as Take does of a VM: the same header and
// pages in another container. What follows the last page is left out, with a
// warning. id names the dump for the account.
//
// source is what the dump says of itself; nil is what Inside finds. It is kept whole
// in the new account (ConvertedFrom), and where it fits the dump, what it says of
// the pages holds for the new one too: of which time they are, which are left out,
// which could not be read and are zero. A dump without an account is of a time that
// is not known.
func Repack(ctx context.Context, f *dump.File, source *SourceAccount, id hv.Identity, place store.Place, name string, o Options) (*Result, error) {
	man := newManifest(id, manifest.ModeConvert, &o)
	o.settle(place, name, man)
	if source == nil {
		source = Inside(f)
	}
	return produce(ctx, place, name, &o, man, (*verify.Report).Failed, func(w io.Writer) (*Result, error) {
		acc := Account{Mode: manifest.ModeConvert, Mechanism: mechanismDump, Consistency: manifest.NotKnown}
		var contents []string
		plan, err := f.Plan()
		if err != nil {
			return nil, err
		}
		if extra := uint64(f.Size()) - end(f); extra > 0 {
			contents = append(contents, fmt.Sprintf("%d bytes after the last page (secondary data) are left out", extra))
			acc.warn("%s", contents[0])
		}
		populated, known, err := f.Populated(ctx)
		if err != nil {
			return nil, err
		}
		if known {
			plan.Populated = populated
		}
		warning, err := o.fits(ctx, place, name, plan, func() (*Sample, error) { return sampleDump(ctx, f, plan, populated, o.writeOptions()) })
		if err != nil {
			return nil, err
		}
		if warning != "" {
			acc.warn("%s", warning)
		}
		source.describe(f, &acc)
		verified, err := o.checkInFlight(ctx, f, plan, man, (*verify.Report).Failed)
		if err != nil {
			return nil, err
		}
		// complete makes the account of a dump with so many pages.
		complete := func(st *dump.Stats) {
			o.addAccount(man, &acc)
			if source.Fits() {
				source.carry(man)
			}
			addStats(man, st)
			if source.Fits() {
				source.carryGaps(man)
			}
			lastPage(man, verified)
		}
		describeDump(ctx, man, f)
		source.keep(man)
		proof := new(dump.Proof)
		wo := o.Write
		wo.Progress, wo.Proof = new(dump.Progress), proof
		wo.Metadata = func(st *dump.Stats) ([]byte, error) {
			complete(st)
			o.addProof(man, proof)
			return man.Compact()
		}
		o.tell(Event{Phase: PhaseWrite, Progress: wo.Progress})
		if err := announce(w, plan); err != nil {
			return nil, err
		}
		st, err := dump.Write(ctx, w, f, plan, wo)
		if err != nil {
			return nil, err
		}
		complete(st)
		o.addProof(man, proof)
		return &Result{Account: acc, Stats: st, Manifest: man, Contents: contents, proof: proof, verified: verified}, nil
	})
}

// mechanismDump is how the pages of an existing dump are read.
const mechanismDump hv.Mechanism = "dump"

// describe says what is known of the moment that the dump is of.
func (a *SourceAccount) describe(f *dump.File, acc *Account) {
	switch {
	case a.Fits():
		acc.Consistency = a.Manifest.Moment()
		acc.ConsistencyFrom = "the account " + a.Where + " that was converted"
		if acc.Consistency == manifest.NotKnown && a.Manifest.ConsistencyFrom == "" {
			acc.ConsistencyFrom += ", which doesn't say"
		}
	case a.Unfit != nil:
		acc.ConsistencyFrom = "the account " + a.Where + " that was converted is not to be believed"
		acc.warn("the account %s that is converted is not believed: %s", a.Where, clip(a.Unfit.Error()))
	default:
		acc.ConsistencyFrom = headerMoment(f)
	}
}

// headerMoment is what the header of a dump without an account says of its moment.
// It proves nothing: a dump that was taken while the guest ran on can carry any bug
// check.
func headerMoment(f *dump.File) string {
	const without = "there is no account of the dump that was converted"
	h, err := f.Header()
	switch {
	case err != nil || !h.IsSet("BugCheckCode") || h.BugCheckCode == 0:
		return without
	case header.LiveBugCheck(h.BugCheckCode) || h.IsSet("Attributes") && h.Attributes&header.AttributeLiveDump != 0:
		return fmt.Sprintf("%s; its header is that of a system that had not crashed (bug check %#x)", without, h.BugCheckCode)
	default:
		return fmt.Sprintf("%s; its header is that of a crash (bug check %#x)", without, h.BugCheckCode)
	}
}

// Bounds on what of a source's account is said again in the new one; the source's own
// is in it whole.
const (
	maxCarriedLines    = 20_000
	maxCarriedWarnings = 100
	maxCarriedText     = 500 // bytes of a warning
)

// carry says again what holds for the new dump as it did for the source.
func (a *SourceAccount) carry(man *manifest.Manifest) {
	m := a.Manifest
	man.Pages.Excluded, man.Pages.ChangedWhileReading, man.Live = m.Pages.Excluded, m.Pages.ChangedWhileReading, m.Live
	man.Pages.RAM, man.Pages.Unlisted, man.Pages.Hidden, man.Pages.Lost, man.HidesMemory = m.Pages.RAM, m.Pages.Unlisted, m.Pages.Hidden, m.Pages.Lost, m.HidesMemory
	man.Unmet = m.Unmet
	if m.VTL1 == manifest.VTL1Held {
		man.VTL1 = manifest.VTL1Held
	}
	man.Excluded, man.Repeated = firstOf(m.Excluded, maxCarriedLines), m.Repeated
	if n := len(m.Excluded) - len(man.Excluded); n > 0 {
		man.Warn("%d more requests to leave pages out were granted: converted_from lists them", n)
	}
	man.Refused = firstOf(m.Refused, maxRefusals)
	man.RefusedOmitted = m.RefusedOmitted + len(m.Refused) - len(man.Refused)
	man.Ignored = firstOf(m.Ignored, maxRefusals)
	man.IgnoredOmitted = m.IgnoredOmitted + len(m.Ignored) - len(man.Ignored)
	for _, w := range firstOf(m.Warnings, maxCarriedWarnings) {
		man.Warn("%s", sourceWarning(w))
	}
	if n := len(m.Warnings) - maxCarriedWarnings; n > 0 {
		man.Warn("the source has %d more warnings: converted_from lists them", n)
	}
}

// carryGaps adds the pages that are zero in the dump because the source could not be
// read when it was made.
func (a *SourceAccount) carryGaps(man *manifest.Manifest) {
	const before = "unreadable when the source was made: "
	man.Pages.Unreadable += a.Manifest.Pages.Unreadable
	for _, g := range a.Manifest.Gaps {
		g.Reason = before + clip(strings.TrimPrefix(g.Reason, before))
		man.Gaps = append(man.Gaps, g)
	}
	man.Gaps = firstOf(man.Gaps, dump.MaxGaps)
}

// keep puts the account as it was found into the new one.
func (a *SourceAccount) keep(man *manifest.Manifest) {
	if a.Manifest == nil {
		return
	}
	kept, left, err := manifest.Keep(a.Document)
	if err != nil {
		man.Warn("the account %s is not in the new one: %s", a.Where, clip(err.Error()))
		return
	}
	if left > 0 {
		man.Warn("the dump was converted more than %d times: the account of the last conversion is left out", manifest.MaxConversions)
	}
	man.ConvertedFrom = kept
}

// sourceWarning is a warning as the source has it, in quotes: it may hold anything. One
// that was quoted by an earlier conversion is quoted once.
func sourceWarning(w string) string {
	const says = "the source's account warns: "
	if quoted, ok := strings.CutPrefix(w, says); ok {
		if text, err := strconv.Unquote(quoted); err == nil {
			w = text
		}
	}
	return says + strconv.Quote(clip(w))
}

// clip bounds what of a source's words is repeated.
func clip(s string) string {
	if len(s) <= maxCarriedText {
		return s
	}
	return strings.ToValidUTF8(s[:maxCarriedText], "") + "…"
}

func firstOf[T any](list []T, n int) []T { return list[:min(len(list), n)] }

// end returns the offset of the first byte after the last page of f.
func end(f *dump.File) uint64 {
	first := uint64(len(f.RawHeader()))
	if b := f.Bitmap(); b != nil {
		first = b.FirstPage
	}
	return min(uint64(f.Size()), first+f.RAM().Pages()<<phys.PageShift)
}

// fromSourceHeader is where the header's values of a dump come from that was made
// of another one.
const fromSourceHeader = "the header of the dump that was converted"

// describeDump adds what is in an existing dump to the account.
func describeDump(ctx context.Context, man *manifest.Manifest, f *dump.File) {
	h, err := f.Header()
	if err != nil {
		man.Warn("the dump's header can't be read: %v", err)
		return
	}
	man.Header = manifest.Header{DumpType: int(h.DumpType), Runs: len(f.RAM()), Fields: map[string]manifest.Field{}}
	for _, v := range h.Fields() {
		if v.Set && v.Kind != header.KindReserved {
			man.Header.Fields[v.Name] = manifest.Field{Value: v.Value, From: fromSourceHeader}
		}
	}
	sys, err := OpenDump(ctx, f)
	if err != nil {
		man.Warn("the guest in the dump can't be read: %v", err)
		return
	}
	man.Guest = DescribeDump(ctx, sys)
	if v := man.Guest.VBS; v != nil && v.SecureKernel {
		man.VTL1 = manifest.VTL1Unsure // unless the account says more
	}
}

// OpenDump finds the guest in a dump by what its header says.
func OpenDump(ctx context.Context, f *dump.File) (*guest.System, error) {
	h, err := f.Header()
	if err != nil {
		return nil, fmt.Errorf("read the dump's header: %w", err)
	}
	return guest.Open(ctx, f, f.RAM(), tableOf(h), h.Width.Address(h.KdDebuggerDataBlock))
}
