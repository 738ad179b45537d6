package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/hv"
	"snap/manifest"
)

// errDegraded ends a command whose dump was written but is not what it should
// be; the warnings say why.
var errDegraded = errors.New("the dump was written but is degraded")

// report tells the operator of a dump that was taken, and ends the command.
func (a *app) report(ctx context.Context, f *fileFlags, res *capture.Result) error {
	doc, err := res.Manifest.JSON()
	if err != nil {
		return err
	}
	unwritten := f.account.write(ctx, doc)
	a.warnOf(res.Manifest.Warnings, res.Contents, res.Degraded)
	if err := a.tell(res.Manifest, doc); err != nil {
		return err
	}
	if unwritten != nil {
		return next(unwritten, "the dump itself is whole: %s", shellWord(res.Manifest.Output))
	}
	if res.Degraded {
		return &cmdError{err: errDegraded, code: exitDegraded, next: "read the warnings above; snap info and snap verify tell more"}
	}
	return nil
}

// warnOf logs warnings. Nothing silences those of contents, which say what is in the
// file or isn't, nor any if it is degraded by them.
func (a *app) warnOf(warnings, contents []string, degraded bool) {
	always := a.log
	if a.quiet {
		always = a.log.Level(zerolog.WarnLevel)
	}
	for _, w := range warnings {
		if degraded || slices.Contains(contents, w) {
			always.Warn().Msg(asCalled(a.call.program(), w))
			continue
		}
		a.log.Warn().Msg(asCalled(a.call.program(), w))
	}
}

// takeAdvice adds what to do next to an error of a capture.
func takeAdvice(err error) error {
	if e, ok := errors.AsType[*capture.ManifestError](err); ok && e.Dump != "" {
		return next(err, "the dump itself is whole: %s", shellWord(e.Dump))
	}
	return pauseAdvice(err)
}

// tell reports a finished dump: JSON for programs, a record for a log, a few
// lines for a person.
func (a *app) tell(sum *manifest.Manifest, doc []byte) error {
	if a.json && sum.Output == stdoutDestination {
		return json.NewEncoder(a.stderr).Encode(sum) // a line among the others
	}
	if a.json {
		_, err := a.stdout.Write(doc)
		return err
	}
	if a.quiet {
		return nil
	}
	if a.logFormat == logJSON {
		a.log.Info().Str("domain", sum.Domain).Str("output", sum.Output).Int("exit_code", sum.ExitCode).
			Uint64("bytes", sum.Bytes.Written).Uint64("expanded_bytes", sum.Bytes.Dump).
			Float64("pause_ms", sum.PauseMS).Float64("pause_estimate_ms", sum.PauseEstimateMS).Float64("pause_estimate_max_ms", sum.PauseEstimateMaxMS).Float64("duration_ms", sum.DurationMS).
			Strs("encrypted_to", sum.EncryptedTo).
			Uint64("excluded_pages", sum.Pages.Excluded).Bool("exclusions_met", !sum.Unmet.Any()).
			Uint64("hidden_pages", sum.Pages.Hidden).Uint64("unreadable_pages", sum.Pages.Unreadable).Uint64("changed_pages", sum.Pages.ChangedWhileReading).
			Bool("consistent", sum.Consistent).Str("consistency", string(sum.Moment())).
			Msg("dump written")
		return nil
	}
	return a.tellPerson(sum)
}

func (a *app) tellPerson(sum *manifest.Manifest) error {
	p := table.NewPairs(a.stderr)
	p.Width = terminalColumns(a.stderr)
	p.AddWhole("dump", "%s", printable(sum.Output))
	p.Add("size", "%s, %s when expanded", humanize.IBytes(sum.Bytes.Written), humanize.IBytes(sum.Bytes.Dump))
	if len(sum.EncryptedTo) > 0 {
		p.Add("encrypted", "to %s", printable(encryptedTo(sum.EncryptedTo)))
	}
	p.Add("guest", "%s, %s", sum.Guest.Windows, plural(sum.Guest.CPUs, "processor"))
	p.Add("kernel", "System CR3 %v, %s", sum.Guest.SystemCR3, kdbgOf(&sum.Guest))
	p.Add("pages", "%s, %s of them zero, %s unreadable", humanize.Comma(int64(sum.Pages.Written)),
		humanize.Comma(int64(sum.Pages.Zero)), humanize.Comma(int64(sum.Pages.Unreadable)))
	addLeftOut(p, sum)
	if sum.VTL1 != "" {
		p.Add("VTL1", "%s", vtl1Line(sum.VTL1))
	}
	p.Add("moment", "%s", moment(sum))
	p.Add("time", "%s in all", duration(sum.DurationMS))
	if v := sum.Verify; v != nil {
		p.Add("verified", "%s%s", verdictLine(v), inFlight(v))
	}
	if withoutSuffix(sum.Output) != sum.Output {
		plain := fileName(sum.Domain) + ".dmp"
		var key []string
		if len(sum.EncryptedTo) > 0 {
			key = []string{"--identity", "KEYFILE"}
		}
		p.AddWhole("open", "%s -o %s", shellCommand(a.call.program()+" expand", key, sum.Output), shellPath(plain))
		p.AddWhole("", "and then %s in WinDbg", printable(plain))
	}
	return p.Flush()
}

// inFlight says of a dump that it could not be read back.
func inFlight(v *manifest.Verify) string {
	if v.How != manifest.VerifiedInFlight {
		return ""
	}
	return "; in flight, as it can't be read back"
}

// encryptedTo names the first of those to whom a dump is encrypted.
func encryptedTo(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// kdbgOf says where the KDBG is.
func kdbgOf(g *manifest.Guest) string {
	if g.KDBG == 0 {
		return "no KDBG"
	}
	return fmt.Sprintf("KDBG %v", g.KDBG)
}

// moment says what time the pages are from.
func moment(sum *manifest.Manifest) string {
	switch {
	case sum.Moment() == manifest.DifferentTimes:
		return fmt.Sprintf("pages are from different times: %s changed while they were read", sum.ChangedPages()) + sentenceFrom(sum)
	case sum.Moment() == manifest.NotKnown:
		return "not known" + sentenceFrom(sum)
	case sum.DowntimeMS != nil && sum.StallMS != nil:
		return fmt.Sprintf("one point in time; QEMU stopped the guest for %s, its clock stalled for %s at most",
			duration(*sum.DowntimeMS), duration(*sum.StallMS))
	case sum.DowntimeMS != nil:
		return fmt.Sprintf("one point in time; QEMU stopped the guest for %s", duration(*sum.DowntimeMS))
	case sum.PauseMS > 0:
		return fmt.Sprintf("one point in time; the guest stood still for %s (estimate %s)", duration(sum.PauseMS), between(sum.PauseEstimateMS, sum.PauseEstimateMaxMS))
	case hv.State(sum.State).Still():
		return fmt.Sprintf("one point in time; the domain was %s and was left so", sum.State)
	default:
		return "one point in time" + sentenceFrom(sum)
	}
}

// sentenceFrom is where the moment is known from, or why it isn't.
func sentenceFrom(sum *manifest.Manifest) string {
	if sum.ConsistencyFrom == "" {
		return ""
	}
	return ": " + printable(sum.ConsistencyFrom)
}

func verdictLine(v *manifest.Verify) string {
	failed, notes := 0, 0
	var readers []string
	for _, c := range v.Checks {
		switch c.Finding() {
		case "":
		case manifest.LevelLimit:
			readers = append(readers, c.Readers...)
		case manifest.LevelNote:
			notes++
		default:
			failed++
		}
	}
	if failed > 0 {
		return fmt.Sprintf("NO, %d of %s failed", failed, plural(len(v.Checks), "check"))
	}
	line := "yes, " + plural(len(v.Checks), "check")
	if len(readers) > 0 {
		line += "; not for " + readersLine(readers)
	}
	if notes > 0 {
		line += "; " + plural(notes, "note")
	}
	return line
}

// readersLine names each reader once. A manifest that is read may say anything.
func readersLine(names []string) string {
	const most = 10
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) && len(out) < most {
			out = append(out, n)
		}
	}
	return printable(brief(strings.Join(out, ", ")))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// between prints two ends of a time in milliseconds, the likely one first.
func between(likely, most float64) string {
	from, to := duration(likely), duration(most)
	if most <= likely || from == to {
		return "about " + from
	}
	return from + " to " + to
}

// duration prints milliseconds as a person says them.
func duration(ms float64) string {
	const most = 1e12 // 31 years: a manifest that is read may say anything
	d := time.Duration(min(max(ms, 0), most) * float64(time.Millisecond))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return longTime(uint64(d.Round(time.Second) / time.Second))
	}
}
