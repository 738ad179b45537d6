package capture

import (
	"cmp"
	"os"
	"time"

	"github.com/dustin/go-humanize"

	"snap/dump"
	"snap/dump/verify"
	"snap/exclude"
	"snap/guest"
	"snap/header"
	"snap/hv"
	"snap/manifest"
)

// maxRefusals bounds the lines on refused requests in a manifest: a hostile
// guest may have a hundred thousand refused. What was left out is always listed
// in full.
const maxRefusals = 1000

// newManifest begins the account of a dump.
func newManifest(id hv.Identity, mode string, o *Options) *manifest.Manifest {
	host := id.Host
	if host == "" {
		host, _ = os.Hostname()
	}
	return &manifest.Manifest{
		Snap: o.Tool, Domain: id.Name, UUID: id.UUID, Host: host, Connect: id.URI,
		Started: time.Now().UTC(), Mode: mode,
	}
}

// Describe returns the account of what an analysis found, with nothing of a dump
// in it.
func Describe(a *Analysis) *manifest.Manifest {
	m := new(manifest.Manifest)
	describeAnalysis(m, a)
	return m
}

// describeAnalysis adds what was found in the guest.
func describeAnalysis(m *manifest.Manifest, a *Analysis) {
	sys := a.System
	m.Guest = DescribeGuest(sys)
	m.Guest.Lacks = whatLacks(a.lacks)
	m.Guest.VBS, m.VTL1 = describeVBS(&a.VBS), a.VTL1
	addExclusions(m, a)
	m.Pages.RAM, m.Pages.Unlisted, m.Pages.Hidden = a.Memory.RAM.Pages(), a.Memory.Unlisted.Pages(), a.Memory.Hidden.Pages()
	m.Pages.Lost, m.HidesMemory = a.Memory.Lost, a.Memory.Suspicious
	m.Header = manifest.Header{
		DumpType: int(a.Header.DumpType), Runs: len(a.Plan.Runs), Fields: map[string]manifest.Field{},
	}
	for _, f := range a.Header.Fields() {
		if f.Set && f.Kind != header.KindReserved { // padding says nothing
			m.Header.Fields[f.Name] = manifest.Field{Value: f.Value, From: f.From}
		}
	}
}

// DescribeGuest returns the account of the Windows in a guest.
func DescribeGuest(sys *guest.System) manifest.Guest {
	return manifest.Guest{
		Windows: sys.Name(), Arch: sys.Arch.Name(), Build: sys.Build(), ProductType: sys.KUSER.NtProductType, CPUs: len(sys.Processors),
		KernelBase: manifest.Hex(sys.KernBase.Value), KernelBaseFrom: sys.KernBase.From, SystemCR3: manifest.Hex(sys.DirectoryTableBase.Value),
		PublishedHeader: publishedHeader(sys.Published),
		KDBG:            manifest.Hex(sys.KDBG.At), KDBGEncoded: sys.KDBG.Encoded, Lacks: whatLacks(sys.Lacks),
	}
}

// publishedHeader is manifest.Guest.PublishedHeader.
func publishedHeader(p *guest.Published) string {
	switch {
	case p == nil:
		return ""
	case p.Err != nil:
		return manifest.PublishedUnusable
	case len(p.Differs) > 0:
		return manifest.PublishedDiffers
	}
	return manifest.PublishedAgrees
}

// addAccount adds how the guest's memory was acquired, as far as it is known.
func (o *Options) addAccount(m *manifest.Manifest, a *Account) {
	m.State = string(a.State)
	m.Mode, m.Source, m.Spooled = a.Mode, string(a.Mechanism), a.Copied
	m.SetMoment(cmp.Or(a.Consistency, manifest.NotKnown), a.ConsistencyFrom)
	m.PauseMS = milliseconds(a.stood())
	if a.Estimate != (PauseEstimate{}) {
		total := a.Estimate.Total()
		m.PauseEstimateMS, m.PauseEstimateMaxMS = milliseconds(total.Likely), milliseconds(total.Most)
		m.PauseEstimateConfidence = string(a.Estimate.Confidence())
	}
	if a.Mode == (Snapshot{}).Name() {
		down := milliseconds(a.Downtime)
		m.DowntimeMS = &down
		if a.StallSeen {
			stall := milliseconds(a.Stall)
			m.StallMS = &stall
		}
	}
	for _, w := range a.Warnings {
		m.Warn("%s", w)
	}
	if a.Smear != nil {
		addSmear(m, a.Smear, o.maxChanged())
	}
}

// addStats adds what writing the pages counted.
func addStats(m *manifest.Manifest, st *dump.Stats) {
	m.Pages = manifest.Pages{
		Excluded: m.Pages.Excluded,
		Total:    st.Pages + m.Pages.Excluded, Written: st.Pages, Zero: st.Zero + st.Unpopulated + st.Unreadable,
		Unpopulated: st.Unpopulated, Unreadable: st.Unreadable,
		ChangedWhileReading: m.Pages.ChangedWhileReading,
		RAM:                 m.Pages.RAM, Unlisted: m.Pages.Unlisted, Hidden: m.Pages.Hidden, Lost: m.Pages.Lost,
	}
	m.Bytes = manifest.Bytes{Read: st.BytesRead, Dump: st.DumpBytes, Written: st.BytesWritten}
	m.PlainSHA256 = st.PlainSHA256
	m.Gaps = nil
	for _, g := range st.Gaps {
		m.Gaps = append(m.Gaps, manifest.Gap{Address: manifest.Hex(g.Run.Base.Addr()), Pages: g.Run.Pages, Reason: g.Reason})
	}
	if st.Unreadable > 0 {
		m.Warn("%s pages could not be read and are zero in the dump", humanize.Comma(int64(st.Unreadable)))
	}
}

// addProof adds how the frames of a dump were proven while they were written.
func (o *Options) addProof(m *manifest.Manifest, p *dump.Proof) {
	m.Proof = &manifest.Proof{
		Verify: string(cmp.Or(o.Write.Verification, dump.Verifications()[0])),
		Frames: p.Frames, Zero: p.Zero, Decoded: p.Decoded,
	}
}

// addSmear adds what mode live counted of a dump whose pages are counted.
func addSmear(m *manifest.Manifest, s *Smear, limit ChangeLimit) {
	m.Pages.ChangedWhileReading = s.Changed
	m.Live = &manifest.Live{MaxChanged: limit.of(m.Pages.Written), Core: manifest.Core{
		Pages: s.Metadata.Pages, Rounds: s.Metadata.Rounds, Unsettled: s.Metadata.Unstable,
	}}
	if s.Changed > m.Live.MaxChanged {
		m.Warn("%s of the pages changed while they were read, and --max-changed %s allows %s: use --mode pause, or --mode snapshot where the guest must not stand still",
			m.ChangedPages(), limit, humanize.Comma(int64(m.Live.MaxChanged)))
	}
}

// degraded reports whether a dump is not what it should be, as far as it is known
// before it is verified.
func degraded(m *manifest.Manifest) bool {
	return m.Pages.Unreadable > 0 || m.Pages.Lost > 0 || smeared(m) || m.Unmet.Any() || m.HidesMemory || len(m.Guest.Lacks) > 0
}

// smeared reports whether a dump of mode live is worse than it may be.
func smeared(m *manifest.Manifest) bool {
	l := m.Live
	return l != nil && (l.Core.Unsettled > 0 || m.Pages.ChangedWhileReading > l.MaxChanged)
}

// addExclusions adds the account of all requests to leave pages out.
func addExclusions(m *manifest.Manifest, a *Analysis) {
	m.Pages.Excluded = a.Excluded
	u := &a.Unmet
	m.Unmet = &manifest.Unmet{Refused: u.Refused, Unresolved: u.Unresolved, Pages: u.Pages, Unread: u.Unread, Kept: u.Kept}
	plan := a.Exclusions
	m.Excluded, m.Repeated, m.Refused, m.Ignored = []manifest.Exclusion{}, 0, nil, nil
	for _, e := range plan.Entries {
		if e.Excluded == 0 && e.Shared > 0 && e.Unresolved == 0 {
			// Nothing but pages that others asked for before.
			m.Repeated++
			continue
		}
		line := exclusionOf(e.Request)
		line.Pages, line.Shared, line.NotPresent, line.Unresolved = e.Excluded, e.Shared, e.NotPresent, e.Unresolved
		m.Excluded = append(m.Excluded, line)
	}
	for i, r := range plan.Refused {
		if i == maxRefusals {
			m.RefusedOmitted = len(plan.Refused) - i
			break
		}
		line := exclusionOf(r.Request)
		line.Reason, line.Status, line.Requests = r.Reason, r.Status.String(), r.Requests
		m.Refused = append(m.Refused, line)
	}
	for i, r := range plan.Ignored {
		if i == maxRefusals {
			m.IgnoredOmitted = len(plan.Ignored) - i
			break
		}
		line := exclusionOf(r.Request)
		line.Reason = r.Why
		m.Ignored = append(m.Ignored, line)
	}
}

func exclusionOf(r exclude.Request) manifest.Exclusion {
	return manifest.Exclusion{
		By: r.By, Kind: r.Kind().String(), Address: manifest.Hex(r.Address), Pages: r.Pages,
		Features: manifest.Hex(r.Features()), Reason: string(r.Reason),
	}
}

// Verdict is the account of a verification.
func Verdict(r *verify.Report) *manifest.Verify {
	v := &manifest.Verify{OK: r.OK, Skipped: r.Skipped}
	for _, c := range r.Checks {
		line := manifest.Check{Name: c.Name, OK: c.OK, Detail: c.Detail, Level: string(c.Level), Meant: c.Meant}
		for _, r := range c.Readers {
			line.Readers = append(line.Readers, string(r))
		}
		v.Checks = append(v.Checks, line)
	}
	return v
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
