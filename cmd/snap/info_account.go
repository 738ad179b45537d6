package main

import (
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/hv"
	"snap/manifest"
)

// accountInfo is what a dump says of itself: its word, whatever it is.
type accountInfo struct {
	Found bool   `json:"found"`
	Where string `json:"where,omitempty"`
	// Believed: it fits the dump. It may be wrong for all that.
	Believed bool   `json:"believed"`
	WhyNot   string `json:"why_not,omitempty"`

	Manifest *manifest.Manifest `json:"manifest,omitempty"`
}

func accountOf(a *capture.SourceAccount) *accountInfo {
	info := &accountInfo{Found: a.Where != "", Where: a.Where, Believed: a.Fits(), Manifest: a.Manifest}
	if a.Unfit != nil {
		info.WhyNot = a.Unfit.Error()
	}
	return info
}

// moment is what is known of the time that the dump's pages are of.
func (a *accountInfo) moment() manifest.Consistency {
	if !a.Believed {
		return manifest.NotKnown
	}
	return a.Manifest.Moment()
}

// momentLine is that for a person.
func (a *accountInfo) momentLine() string {
	switch {
	case !a.Found:
		return "not known: there is no account in the dump"
	case !a.Believed:
		return "not known: the account of the dump is not to be believed"
	default:
		return moment(a.Manifest)
	}
}

// addTo tells a person of the moment, and of an account that tells nothing.
func (a *accountInfo) addTo(p *table.Pairs) {
	switch {
	case !a.Found:
		p.Add("account", "none: no snap wrote what it knew of this dump into it or beside it")
	case !a.Believed:
		p.Add("account", "%s; not believed: %s", printable(brief(a.Where)), printable(brief(a.WhyNot)))
	default:
		p.Add("account", "%s, by snap %s", printable(brief(a.Where)), printable(brief(a.Manifest.Snap)))
	}
	p.Add("moment", "%s", a.momentLine())
}

// write tells a person what the account says. All of it is the file's word: nothing
// of it reaches a terminal as it is.
func (a *accountInfo) write(w io.Writer) error {
	if !a.Believed {
		return nil
	}
	fmt.Fprintf(w, "\nAccount\n")
	p := &accountLines{Pairs: table.NewPairs(w)}
	p.Width = terminalWidth
	p.add(a.Manifest)
	p.chain(a.Manifest)
	for i, warning := range a.Manifest.Warnings {
		if i == maxListed {
			p.Add("warning", "… %d more", len(a.Manifest.Warnings)-i)
			break
		}
		p.Add("warning", "%s", printable(brief(warning)))
	}
	if err := p.Flush(); err != nil {
		return err
	}
	t := exclusionTable(a.Manifest)
	if t.Len() == 0 {
		return nil
	}
	t.Width = terminalWidth
	fmt.Fprintf(w, "\nPages to leave out\n")
	return t.Write(w, "  ")
}

// accountLines are the lines of an account.
type accountLines struct{ *table.Pairs }

func (p accountLines) add(m *manifest.Manifest) {
	p.Add("domain", "%s", named(m.Domain, m.UUID))
	p.Add("host", "%s", named(m.Host, m.Connect))
	if m.State != "" {
		p.Add("state", "%s when the dump began", printable(brief(m.State)))
	}
	p.Add("started", "%s, by the host's clock", clock(m.Started))
	switch {
	case !m.Finished.IsZero():
		p.Add("finished", "%s, after %s", clock(m.Finished), duration(max(0, m.DurationMS)))
	case !m.LastPage.IsZero():
		p.Add("last page", "%s; the account was written then", clock(m.LastPage))
	default:
		p.Add("finished", "not known: the account was written before")
	}
	p.Add("mode", "%s, memory read by %s", printable(brief(m.Mode)), printable(brief(m.Source)))
	if s := stillFor(m); s != "" {
		p.Add("stood still", "%s", s)
	}
	if m.Live != nil {
		p.Add("smear", "%s", smear(m))
	}
	p.Add("pages", "%s; %s of them zero, %s unreadable", comma(m.Pages.Written), comma(m.Pages.Zero), comma(m.Pages.Unreadable))
	p.Add("left out", "%s", leftOut(m))
	addUnmet(p.Pairs, m)
	if m.VTL1 != "" {
		p.Add("VTL1", "%s", vtl1Line(m.VTL1))
	}
	if n := len(m.Refused) + m.RefusedOmitted; n > 0 {
		p.Add("refused", "%s to leave pages out: they may be in the dump", plural(n, "request"))
	}
	if n := len(m.Ignored) + m.IgnoredOmitted; n > 0 {
		p.Add("kept", "%s to leave pages out did not count for this dump", plural(n, "request"))
	}
	if m.SignedBy != "" {
		p.AddWhole("signed", "by %s, says the account: ssh-keygen -Y verify proves it", printable(brief(m.SignedBy)))
	}
	if m.PlainSHA256 != "" {
		p.AddWhole("plain dump", "SHA-256 %s", printable(brief(m.PlainSHA256)))
	}
	if m.Proof != nil {
		p.Add("frames", "%s", frames(m.Proof))
	}
	switch {
	case m.Verify != nil:
		p.Add("verified", "%s", verdictLine(m.Verify))
		if n := m.Verify.ReadBack; n > 0 {
			p.Add("", "all %s bytes of the file were read back and are what was compressed", comma(n))
		}
		if m.Verify.How == manifest.VerifiedInFlight {
			p.Add("", "in flight: the file could not be read back, so its pages were looked at before they were written")
		}
	default:
		p.Add("verified", "not yet when this was written; the command verify does it")
	}
	if m.ExitCode == manifest.ExitDegraded {
		p.Add("degraded", "yes, snap ended with exit code 3")
	}
}

// chain tells of the dumps that this one was converted from.
func (p accountLines) chain(m *manifest.Manifest) {
	for range manifest.MaxConversions {
		from, err := m.ConvertedFrom.Decode()
		if err != nil {
			p.Add("made from", "a dump whose account can't be read: %s", printable(brief(err.Error())))
			return
		}
		if from == nil {
			return
		}
		p.Add("made from", "a dump in mode %s of %s, taken on %s by snap %s, begun %s; %s", printable(brief(from.Mode)), named(from.Domain, ""),
			named(from.Host, from.Connect), printable(brief(from.Snap)), clock(from.Started), moment(from))
		if s := stillFor(from); s != "" {
			p.Add("", "the guest stood still for %s", s)
		}
		m = from
	}
}

// stillFor is for how long the guest did, where the moment doesn't say it.
func stillFor(m *manifest.Manifest) string {
	switch {
	case m.Mode == manifest.ModeConvert || m.Moment() != manifest.OnePointInTime || hv.State(m.State).Still():
		return ""
	case m.PauseMS <= 0 && m.DowntimeMS == nil && m.PauseEstimateMS > 0:
		return "not known: the account was written while it did"
	case m.PauseMS <= 0 && m.DowntimeMS == nil:
		return "not for the dump: it was paused already"
	}
	return "" // the moment says it
}

// smear is how far the pages are of different times.
func smear(m *manifest.Manifest) string {
	core := m.Live.Core
	s := fmt.Sprintf("%s pages changed while they were read, %s allowed; ", m.ChangedPages(), comma(m.Live.MaxChanged))
	if core.Unsettled > 0 {
		return s + fmt.Sprintf("%s of %s pages of tables and lists never agreed in %s", comma(core.Unsettled), comma(core.Pages), plural(core.Rounds, "round"))
	}
	return s + "tables and lists agreed after " + plural(core.Rounds, "round")
}

// leftOut is how many pages stay out, for how many requests.
func leftOut(m *manifest.Manifest) string {
	n := len(m.Excluded) + m.Repeated
	if m.Pages.Excluded == 0 && n == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s pages for %s", comma(m.Pages.Excluded), plural(n, "request"))
}

// frames is how they were proven.
func frames(p *manifest.Proof) string {
	s := "none: the bytes of the file are those of the pages"
	if p.Frames > 0 {
		s = fmt.Sprintf("%s, %s of them zeros; %s of the others expanded again and compared with their pages (--verify %s)",
			comma(p.Frames), comma(p.Zero), comma(p.Decoded), printable(brief(p.Verify)))
	}
	return s
}

// named is a name, with another one behind it.
func named(name, other string) string {
	name = printable(brief(name))
	if name == "" {
		name = "(no name)"
	}
	if other != "" {
		name += ", " + printable(brief(other))
	}
	return name
}

// clock prints a time.
func clock(t time.Time) string {
	if t.IsZero() {
		return "at a time that is not known"
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

// comma prints a number with commas.
func comma(n uint64) string { return humanize.BigComma(new(big.Int).SetUint64(n)) }

// brief bounds what of a text from a file is shown.
func brief(s string) string {
	const most = 300 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
