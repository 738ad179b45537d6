// Package catalog says what lies where dumps go, by the manifests beside them: which
// dump is of which domain and moment, which is not what its manifest says, and what
// isn't a dump at all.
//
// A manifest is the file NAME.json beside the dump NAME. It is written last, so that a
// dump without one is unfinished, or no snap wrote it. Nothing that a manifest says is
// to be trusted more than whoever may write there, and nothing in it is taken for a
// path: names are those of the listing.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"snap/manifest"
	"snap/store"
)

// ErrTooMany is of a place where more files lie than a catalogue has entries.
var ErrTooMany = errors.New("too many files lie there")

// MaxFiles bounds the files of a catalogue.
const MaxFiles = 1 << 20

// State is what a file is to a catalogue.
type State string

// What there is.
const (
	Dump       State = "dump"        // beside its manifest, and as long as that says
	Damaged    State = "damaged"     // beside its manifest, and not as long as that says
	NoManifest State = "no manifest" // called as dumps are, and no manifest of snap's lies beside it
	NoDump     State = "no dump"     // a manifest, and the dump isn't beside it
	Foreign    State = "foreign"     // neither a dump nor a manifest
)

// Entry is a file. The manifest beside a dump is a part of the dump's entry.
type Entry struct {
	store.Entry

	State State
	Why   string // for people: why it isn't a Dump; may hold the text of a file

	// Account is what the manifest says; nil where there is none. It must not be
	// changed.
	Account *Account

	sum documentSum // of the manifest
}

// Read returns what lies in an archive, sorted by domain, time and name: what has no
// account is last. What can't be read of a single manifest is said in its entry; an
// error is of the listing, or that of ctx.
func Read(ctx context.Context, a store.Archive) ([]Entry, error) {
	var files []store.Entry
	err := a.List(ctx, func(e store.Entry) error {
		if len(files) == MaxFiles {
			return fmt.Errorf("look into %s: %w: more than %d", a.Path(""), ErrTooMany, MaxFiles)
		}
		files = append(files, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	manifests, err := readManifests(ctx, a, files)
	if err != nil {
		return nil, err
	}
	entries := pair(files, manifests)
	slices.SortStableFunc(entries, inOrder)
	return entries, nil
}

// pair makes entries of files, in their order. A manifest becomes a part of its dump's, as
// does its signature.
func pair(files []store.Entry, manifests map[string]document) []Entry {
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.Name] = true
	}
	var entries []Entry
	for _, f := range files {
		if dump, ok := strings.CutSuffix(f.Name, manifest.SignatureSuffix); ok && manifests[dump+manifest.Suffix].signed() {
			continue
		}
		own, isManifest := manifests[f.Name]
		if dump, ok := strings.CutSuffix(f.Name, manifest.Suffix); ok && isManifest && own.account != nil {
			if !there[dump] {
				entries = append(entries, Entry{Entry: f, State: NoDump, Account: own.account, sum: own.sum, Why: "its dump isn't there"})
			}
			continue
		}
		entries = append(entries, entryOf(f, own, manifests[f.Name+manifest.Suffix]))
	}
	return entries
}

// entryOf makes an entry of a file that is no manifest; own is what was read of it in
// the hope that it is one, and beside what lies beside it.
func entryOf(f store.Entry, own, beside document) Entry {
	e := Entry{Entry: f, State: Foreign, Why: own.why, Account: beside.account, sum: beside.sum}
	switch {
	case beside.account == nil && NamedAsDump(f.Name):
		e.State, e.Why = NoManifest, beside.why
		if e.Why == "" {
			e.Why = "nothing lies beside it"
		}
	case beside.account == nil && e.Why == "":
		e.Why = "neither its name nor a manifest says that it is a dump"
	case beside.account == nil:
	case f.Size < 0 || uint64(f.Size) != beside.account.Written:
		e.State, e.Why = Damaged, fmt.Sprintf("it has %d bytes; its manifest says %d", f.Size, beside.account.Written)
	default:
		e.State, e.Why = Dump, ""
	}
	return e
}

// NamedAsDump reports whether a file is called as snap calls dumps: NAME.dmp, with what
// tells of compression and encryption behind that.
func NamedAsDump(name string) bool {
	stem, _, ok := strings.Cut(strings.ToLower(name)+".", ".dmp.")
	return ok && stem != "" && !strings.HasSuffix(name, manifest.Suffix) && !strings.HasSuffix(name, manifest.SignatureSuffix)
}

func inOrder(a, b Entry) int {
	if a.Account == nil || b.Account == nil {
		switch {
		case a.Account != nil:
			return -1
		case b.Account != nil:
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Or(
		cmp.Compare(a.Account.Domain, b.Account.Domain),
		cmp.Compare(a.Account.UUID, b.Account.UUID),
		a.When().Compare(b.When()),
		cmp.Compare(a.Name, b.Name),
	)
}

// When is the time that the pages are of, as far as it is known: when the dump began
// by its account, else when the file got its name.
func (e *Entry) When() time.Time {
	if e.Account != nil && !e.Account.Started.IsZero() {
		return e.Account.Started
	}
	return e.Modified
}
