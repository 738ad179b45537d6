package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"snap/cmd/snap/internal/capture"
	"snap/cmd/snap/internal/report"
	"snap/dump"
	"snap/dump/verify"
	"snap/guest"
	"snap/hv"
)

// errDegraded ends a command whose dump was written but is not what it should
// be; the warnings say why.
var errDegraded = errors.New("the dump was written but is degraded")

// newSummary begins the account of a dump.
func (a *app) newSummary(id hv.Identity, mode string) *report.Summary {
	host := id.Host
	if host == "" {
		host, _ = os.Hostname()
	}
	return &report.Summary{
		Snap: version, Domain: id.Name, UUID: id.UUID, Host: host, Connect: id.URI,
		Started: time.Now().UTC(), Mode: mode,
	}
}

// describeGuest adds what was found in the guest.
func describeGuest(sum *report.Summary, s *capture.Survey) {
	sys := s.System
	sum.Guest = guestOf(sys)
	addExclusions(sum, s)
	sum.Header = report.Header{
		DumpType: int(s.Header.DumpType), Runs: len(s.Plan.Runs), Fields: map[string]report.Field{},
	}
	for _, f := range s.Header.Fields() {
		if from, ok := sys.Origins[f.Name]; ok && f.Set {
			sum.Header.Fields[f.Name] = report.Field{Value: f.Value, From: from}
		}
	}
}

// guestOf is the report on the Windows in a guest.
func guestOf(sys *guest.System) report.Guest {
	return report.Guest{
		Windows: guestName(sys),
		Arch:    archName(sys), Build: sys.Build(), ProductType: sys.KUSER.NtProductType, CPUs: len(sys.Processors),
		KernelBase: report.Hex(sys.Kernel.Base), SystemCR3: report.Hex(sys.DirectoryTableBase),
		KDBG: report.Hex(sys.KDBG.At), KDBGEncoded: sys.KDBG.Encoded,
	}
}

func archName(sys *guest.System) string {
	if sys.Arch == 0x8664 {
		return "amd64"
	}
	return fmt.Sprintf("%#x", sys.Arch)
}

// addResult adds what a finished capture counted.
func addResult(sum *report.Summary, r *capture.Result) {
	addPause(sum, r)
	for _, w := range r.Warnings {
		sum.Warn("%s", w)
	}
	addStats(sum, r.Stats)
}

// addStats adds what writing the pages counted.
func addStats(sum *report.Summary, st *dump.Stats) {
	sum.Pages = report.Pages{
		Excluded: sum.Pages.Excluded,
		Total:    st.Pages + sum.Pages.Excluded, Written: st.Pages, Zero: st.Zero + st.Unpopulated + st.Unreadable,
		Unpopulated: st.Unpopulated, Unreadable: st.Unreadable,
	}
	sum.Bytes = report.Bytes{Read: st.BytesRead, Dump: st.DumpBytes, Written: st.BytesWritten}
	sum.SHA256 = st.SHA256
	sum.Gaps = nil
	for _, g := range st.Gaps {
		sum.Gaps = append(sum.Gaps, report.Gap{Address: report.Hex(g.Run.Base.Addr()), Pages: g.Run.Pages, Reason: g.Reason})
	}
	if st.Unreadable > 0 {
		sum.Warn("%s pages could not be read and are zero in the dump", humanize.Comma(int64(st.Unreadable)))
	}
}

// finish verifies what was written, gives it its name, writes the manifest and
// tells the operator.
func (a *app) finish(ctx context.Context, out *output, sum *report.Summary) error {
	sum.Output = out.path
	degraded := sum.Pages.Unreadable > 0
	if out.pending == nil {
		sum.Warn("standard output can't be read back: check the dump with snap verify")
		degraded = true
	} else {
		ok, err := a.verifyAndCommit(ctx, out, sum)
		if err != nil {
			return err
		}
		degraded = degraded || !ok
	}
	sum.Finished = time.Now().UTC()
	sum.DurationMS = milliseconds(sum.Finished.Sub(sum.Started))
	if degraded {
		sum.ExitCode = exitDegraded
	}
	doc, err := sum.JSON()
	if err != nil {
		return err
	}
	if out.manifest && out.pending != nil {
		if err := out.writeManifest(doc); err != nil {
			return next(err, "the dump itself is whole: %s", out.path)
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
// whether it is all that readers demand.
func (a *app) verifyAndCommit(ctx context.Context, out *output, sum *report.Summary) (bool, error) {
	if abs, err := filepath.Abs(out.path); err == nil {
		sum.Output = abs
	}
	ok, err := a.verifyOutput(ctx, out, sum)
	if err != nil {
		return false, fmt.Errorf("verify the dump of %s before it gets its name: %w", sum.Domain, err)
	}
	if err := out.pending.Commit(); err != nil {
		return false, fmt.Errorf("put the dump of %s in its place: %w", sum.Domain, err)
	}
	return ok, nil
}

// verifyOutput reads the file back and adds the verdict to the summary. An
// error means that the file is not even what was meant to be written.
func (a *app) verifyOutput(ctx context.Context, out *output, sum *report.Summary) (bool, error) {
	f, err := out.reopen()
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

func verdict(r *verify.Report) *report.Verify {
	v := &report.Verify{OK: r.OK, Skipped: r.Skipped}
	for _, c := range r.Checks {
		v.Checks = append(v.Checks, report.Check{Name: c.Name, OK: c.OK, Detail: c.Detail})
	}
	return v
}

// tell reports a finished dump: JSON for programs, a record for a log, a few
// lines for a person.
func (a *app) tell(sum *report.Summary, doc []byte) error {
	for _, w := range sum.Warnings {
		a.log.Warn().Msg(w)
	}
	if a.json {
		_, err := a.stdout.Write(doc)
		return err
	}
	if a.quiet {
		return nil
	}
	if a.logFormat == "json" {
		a.log.Info().Str("domain", sum.Domain).Str("output", sum.Output).Int("exit_code", sum.ExitCode).
			Uint64("bytes", sum.Bytes.Written).Uint64("expanded_bytes", sum.Bytes.Dump).
			Float64("pause_ms", sum.PauseMS).Float64("pause_estimate_ms", sum.PauseEstimateMS).Float64("duration_ms", sum.DurationMS).
			Uint64("unreadable_pages", sum.Pages.Unreadable).Bool("consistent", sum.Consistent).
			Msg("dump written")
		return nil
	}
	return a.tellPerson(sum)
}

func (a *app) tellPerson(sum *report.Summary) error {
	p := report.NewPairs(a.stderr)
	p.Add("dump", "%s", sum.Output)
	p.Add("size", "%s, %s when expanded", humanize.IBytes(sum.Bytes.Written), humanize.IBytes(sum.Bytes.Dump))
	p.Add("guest", "%s, %s, System CR3 %v, KDBG %v", sum.Guest.Windows,
		plural(sum.Guest.CPUs, "processor"), sum.Guest.SystemCR3, sum.Guest.KDBG)
	p.Add("pages", "%s, %s of them zero, %s unreadable", humanize.Comma(int64(sum.Pages.Written)),
		humanize.Comma(int64(sum.Pages.Zero)), humanize.Comma(int64(sum.Pages.Unreadable)))
	if sum.Pages.Excluded > 0 {
		p.Add("left out", "%s more, as asked for; the manifest lists by whom", humanize.Comma(int64(sum.Pages.Excluded)))
	}
	p.Add("moment", "%s", moment(sum))
	p.Add("time", "%s in all", duration(sum.DurationMS))
	if v := sum.Verify; v != nil {
		p.Add("verified", "%s", verdictLine(v))
	}
	if strings.HasSuffix(sum.Output, ".zst") || strings.HasSuffix(sum.Output, ".gz") {
		p.Add("open", "snap expand %s -o %s.dmp, then open that in WinDbg", sum.Output, fileName(sum.Domain))
	}
	return p.Flush()
}

// moment says what time the pages are from.
func moment(sum *report.Summary) string {
	switch {
	case !sum.Consistent:
		return "pages are from different times: the guest ran on"
	case sum.PauseMS > 0:
		return fmt.Sprintf("one point in time; the guest stood still for %s (estimate %s)", duration(sum.PauseMS), duration(sum.PauseEstimateMS))
	default:
		return "one point in time"
	}
}

func verdictLine(v *report.Verify) string {
	failed := 0
	for _, c := range v.Checks {
		if !c.OK {
			failed++
		}
	}
	if failed == 0 {
		return fmt.Sprintf("yes, %s", plural(len(v.Checks), "check"))
	}
	return fmt.Sprintf("NO, %d of %s failed", failed, plural(len(v.Checks), "check"))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// duration prints milliseconds as a person says them.
func duration(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// asciiComment makes text fit a header's comment field.
func asciiComment(text string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return ascii[:min(len(ascii), 127)]
}
