package main

import (
	"context"
	"fmt"

	"snap/store"
)

// summaryFile is where a command puts the account of the dump that it wrote, beside what
// it prints; nil for nowhere.
type summaryFile struct {
	place store.Place
	name  string
}

// openSummary understands --summary. Nothing is touched yet.
func (f *fileFlags) openSummary() (*summaryFile, error) {
	switch {
	case !f.summaryGiven.Changed:
		return nil, nil
	case isFolder(f.summary) || store.IsStdout(f.summary):
		return nil, wrongValue("summary", f.summary, "the name of a new file, such as summary.json")
	}
	for _, taken := range []string{f.output, f.output + ".json", f.trace} {
		if taken != "" && !f.toStdout() && samePath(f.summary, taken) {
			return nil, usageError("--summary names %s, which is another file's name already", taken)
		}
	}
	place, name, err := store.Open(f.summary, store.Options{Force: f.force, NoSum: true})
	if err != nil {
		return nil, fmt.Errorf("write a summary to %s: %w", f.summary, err)
	}
	return &summaryFile{place, name}, nil
}

// check fails if there can't be a summary, before there is a dump.
func (s *summaryFile) check(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.failed(s.place.Check(ctx, s.name))
}

// write puts the account where it belongs, whole or not at all.
func (s *summaryFile) write(ctx context.Context, doc []byte) error {
	if s == nil {
		return nil
	}
	return s.failed(store.WriteFile(ctx, s.place, s.name, doc))
}

func (s *summaryFile) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write a summary to %s: %w", s.place.Path(s.name), err)
}
