package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"snap/cmd/snap/internal/progress"
	"snap/dump"
	"snap/store"
)

// output is where a dump goes: a file that gets its name only when it is
// whole, or standard output.
type output struct {
	a        *app
	place    store.Place
	name     string
	manifest bool

	file     store.File
	progress dump.Progress
	stop     func() // ends the progress display, nil if there is none
}

// openOutput makes sure that there is a place for the dump before anything is
// asked of the guest.
func (a *app) openOutput(ctx context.Context, o *fileOptions, domain string) (*output, error) {
	options := store.Options{Force: o.force, Stdout: a.stdout}
	if o.held != nil {
		options.Keeper = o.held.guardian
	}
	place, name, err := destination(o.output, domain, time.Now(), dump.Compression(o.compress), options)
	if err != nil {
		return nil, err
	}
	out := &output{a: a, place: place, name: name, manifest: o.manifest}
	if o.output == stdoutDestination {
		if a.json {
			return nil, usageError("--json and -o - both want standard output")
		}
		if isTerminal(a.stdout) {
			return nil, usageError("standard output is a terminal: a dump would garble it")
		}
	}
	if o.manifest {
		switch err := place.Check(ctx, out.manifestName()); {
		case errors.Is(err, store.ErrOneFile):
			out.manifest = false
		case err != nil:
			return nil, fmt.Errorf("write the manifest: %w", err)
		}
	}
	if out.file, err = place.Create(ctx, name); err != nil {
		return nil, err
	}
	return out, nil
}

// path is how people call the dump.
func (o *output) path() string { return o.place.Path(o.name) }

// writer is what the dump is written to.
func (o *output) writer() io.Writer { return o.file }

// showProgress starts the bar, or the log records, of a job that counts in
// o.progress.
func (o *output) showProgress(name string) {
	o.stop = o.a.showProgress(name, &o.progress)
}

func (o *output) stopProgress() {
	if o.stop != nil {
		o.stop()
		o.stop = nil
	}
}

// abandon removes what was written unless it got its name, and returns err
// with what went wrong on the way.
func (o *output) abandon(err error) error {
	o.stopProgress()
	return errors.Join(err, o.file.Abort())
}

// reopen reads the written file back.
func (o *output) reopen(ctx context.Context) (*dump.File, error) {
	r, size, err := o.file.Reopen(ctx)
	if err != nil {
		return nil, err
	}
	return dump.NewFile(r, size)
}

// manifestName is that of the summary, which lies beside the dump.
func (o *output) manifestName() string { return o.name + ".json" }

// writeManifest puts the summary beside the dump.
func (o *output) writeManifest(ctx context.Context, doc []byte) error {
	if err := putFile(ctx, o.place, o.manifestName(), doc); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	return nil
}

// putFile makes a small file.
func putFile(ctx context.Context, place store.Place, name string, b []byte) error {
	f, err := place.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", place.Path(name), err), f.Abort())
	}
	return f.Commit(ctx)
}

// showProgress displays p in the way that suits where standard error goes.
func (a *app) showProgress(name string, p *dump.Progress) (stop func()) {
	style := progress.Log
	switch {
	case a.quiet:
		style = progress.None
	case a.logFormat == "console" && isTerminal(a.stderr):
		style = progress.Bar
	}
	return progress.Show(a.stderr, a.log, style, name, counter{p})
}

// savingProgress shows how far a snapshot is, from its first word on.
type savingProgress struct {
	a    *app
	name string // of the domain
	p    dump.Progress
	stop func() // nil before the first word and after the end
}

func (s *savingProgress) update(done, total uint64) {
	s.p.Done.Store(done)
	s.p.Total.Store(total)
	if s.stop == nil {
		s.stop = s.a.showProgress("saving "+s.name, &s.p)
	}
}

// saved ends the display of a snapshot that is whole.
func (s *savingProgress) saved() {
	s.p.Done.Store(s.p.Total.Load())
	s.end()
}

func (s *savingProgress) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// counter shows a dump.Progress as bytes of the expanded dump.
type counter struct{ p *dump.Progress }

func (c counter) Done() uint64  { return c.p.Done.Load() }
func (c counter) Total() uint64 { return c.p.Total.Load() }
