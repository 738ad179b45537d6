package main

import (
	"os"
	"time"

	"github.com/dustin/go-humanize"

	"snap/cmd/snap/internal/capture"
	"snap/dump"
	"snap/guest"
	"snap/hv"
	"snap/manifest"
)

// newSummary begins the account of a dump.
func (a *app) newSummary(id hv.Identity, mode string) *manifest.Manifest {
	host := id.Host
	if host == "" {
		host, _ = os.Hostname()
	}
	return &manifest.Manifest{
		Snap: version, Domain: id.Name, UUID: id.UUID, Host: host, Connect: id.URI,
		Started: time.Now().UTC(), Mode: mode,
	}
}

// describeGuest adds what was found in the guest.
func describeGuest(sum *manifest.Manifest, s *capture.Survey) {
	sys := s.System
	sum.Guest = guestOf(sys)
	addExclusions(sum, s)
	sum.Header = manifest.Header{
		DumpType: int(s.Header.DumpType), Runs: len(s.Plan.Runs), Fields: map[string]manifest.Field{},
	}
	for _, f := range s.Header.Fields() {
		if f.From != "" {
			sum.Header.Fields[f.Name] = manifest.Field{Value: f.Value, From: f.From}
		}
	}
}

// guestOf is the report on the Windows in a guest.
func guestOf(sys *guest.System) manifest.Guest {
	return manifest.Guest{
		Windows: sys.Name(), Arch: sys.Arch.Name(), Build: sys.Build(), ProductType: sys.KUSER.NtProductType, CPUs: len(sys.Processors),
		KernelBase: manifest.Hex(sys.Kernel.Base), SystemCR3: manifest.Hex(sys.DirectoryTableBase.Value),
		KDBG: manifest.Hex(sys.KDBG.At), KDBGEncoded: sys.KDBG.Encoded,
	}
}

// addResult adds what a finished capture counted.
func addResult(sum *manifest.Manifest, r *capture.Result) {
	addPause(sum, r)
	for _, w := range r.Warnings {
		sum.Warn("%s", w)
	}
	addStats(sum, r.Stats)
}

// addStats adds what writing the pages counted.
func addStats(sum *manifest.Manifest, st *dump.Stats) {
	sum.Pages = manifest.Pages{
		Excluded: sum.Pages.Excluded,
		Total:    st.Pages + sum.Pages.Excluded, Written: st.Pages, Zero: st.Zero + st.Unpopulated + st.Unreadable,
		Unpopulated: st.Unpopulated, Unreadable: st.Unreadable,
		ChangedWhileReading: sum.Pages.ChangedWhileReading,
	}
	sum.Bytes = manifest.Bytes{Read: st.BytesRead, Dump: st.DumpBytes, Written: st.BytesWritten}
	sum.Gaps = nil
	for _, g := range st.Gaps {
		sum.Gaps = append(sum.Gaps, manifest.Gap{Address: manifest.Hex(g.Run.Base.Addr()), Pages: g.Run.Pages, Reason: g.Reason})
	}
	if st.Unreadable > 0 {
		sum.Warn("%s pages could not be read and are zero in the dump", humanize.Comma(int64(st.Unreadable)))
	}
}
