package catalog

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"snap/manifest"
	"snap/retention"
	"snap/store"
)

// maxUUID bounds what counts as the UUID of a domain, in bytes.
const maxUUID = 64

// Action is what becomes of a file.
type Action string

// What can become of it.
const (
	Keep      Action = "keep"      // a dump that retention is about, and that stays
	Goes      Action = "remove"    // a dump that is to go
	Untouched Action = "untouched" // nothing that retention is about
)

// Verdict is what becomes of a file, and why. A dump without a rule that keeps it goes
// without a reason.
type Verdict struct {
	*Entry

	Action Action
	Why    []string
}

// Plan is what becomes of all files of a catalogue.
type Plan struct {
	Verdicts []Verdict // in the order of the entries

	Kept uint64 // bytes of the dumps that stay and that retention is about
	Over bool   // that is more than the policy's MaxTotal
}

// MakePlan applies a policy to a catalogue. It is about dumps that snap took of a
// domain (see Untouched files' reasons), which it tells by its UUID, so that one that
// was renamed is still the same. It changes nothing.
//
// A manifest can be forged by whoever may write there, and so can the claim to be a
// domain. So the newest verified dump of each name of a domain on each host stays too:
// what comes under another name or from another host doesn't replace the last one.
func MakePlan(entries []Entry, p retention.Policy, now time.Time) *Plan {
	plan := &Plan{Verdicts: make([]Verdict, len(entries))}
	var items []retention.Item
	var about []int
	for i := range entries {
		e := &entries[i]
		plan.Verdicts[i] = Verdict{Entry: e, Action: Untouched}
		if why := e.untouchable(); why != "" {
			plan.Verdicts[i].Why = []string{why}
			continue
		}
		about = append(about, i)
		items = append(items, retention.Item{
			Domain: e.Account.UUID, Origin: e.Account.Domain + "\x00" + e.Account.Host,
			Time: e.Account.Started, Size: uint64(e.Size), Verified: e.Account.Verified, Until: e.Account.KeptUntil,
		})
	}
	decisions, total := retention.Apply(p, items, now)
	for k, d := range decisions {
		v := &plan.Verdicts[about[k]]
		if v.Action, v.Why = Goes, d.Why; d.Keep {
			v.Action = Keep
		}
	}
	plan.Kept, plan.Over = total, p.MaxTotal > 0 && total > p.MaxTotal
	return plan
}

// untouchable says why retention isn't about a file, "" if it is.
func (e *Entry) untouchable() string {
	a := e.Account
	switch {
	case e.State != Dump:
		return e.Why
	case !NamedAsDump(e.Name):
		return "its name isn't that of a dump"
	case path.Base(a.Output) != e.Name:
		return "it was renamed: its manifest says that it was written under another name"
	case a.Mode == manifest.ModeConvert:
		return "it was made from a file, and is no domain's"
	case a.UUID == "" || len(a.UUID) > maxUUID:
		return "its manifest doesn't say of which domain it is"
	case a.Started.IsZero():
		return "its manifest doesn't say when it was taken"
	}
	return ""
}

// Of returns the plan for one domain alone: what is another's is Untouched. A file
// that is called spared is kept.
func (p *Plan) Of(uuid, spared string) *Plan {
	own := &Plan{Kept: p.Kept}
	for _, v := range p.Verdicts {
		switch {
		case v.Action == Untouched:
		case v.Account.UUID != strings.ToLower(uuid):
			v.Action, v.Why = Untouched, []string{"it is another domain's"}
		case v.Action == Goes && v.Name == spared:
			v.Action, v.Why = Keep, []string{"it was taken just now"}
		}
		own.Verdicts = append(own.Verdicts, v)
	}
	return own
}

// Going returns the dumps that are to go.
func (p *Plan) Going() []Verdict {
	var going []Verdict
	for _, v := range p.Verdicts {
		if v.Action == Goes {
			going = append(going, v)
		}
	}
	return going
}

// Outcome is what became of a dump that was to go.
type Outcome struct {
	Verdict

	Gone bool  // the dump isn't there any more
	Err  error // what failed; it wraps store.ErrKept if the place keeps the dump, or its manifest
}

// Failed reports whether what failed is a failure: that the place keeps it is none, nor
// that somebody else removed it.
func (o *Outcome) Failed() bool { return o.Err != nil && !errors.Is(o.Err, store.ErrKept) }

// Carry removes what is to go by the plan, one after the other, and tells each what
// became of it. What fails keeps the others from nothing; the error is that of ctx.
func (p *Plan) Carry(ctx context.Context, a store.Archive, each func(Outcome)) error {
	for _, v := range p.Going() {
		gone, err := Remove(ctx, a, v.Entry)
		if errors.Is(err, fs.ErrNotExist) && !gone {
			gone, err = true, nil
		}
		if err != nil && ctx.Err() != nil {
			return ctx.Err()
		}
		each(Outcome{v, gone, err})
	}
	return ctx.Err()
}
