package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"snap/cmd/snap/internal/progress"
	"snap/dump"
)

// output is where a dump goes: a file that gets its name only when it is
// whole, or standard output.
type output struct {
	a        *app
	path     string
	force    bool
	manifest bool

	create   func(path string, force bool) (*dump.Pending, error)
	pending  *dump.Pending // nil for standard output
	progress dump.Progress
	stop     func() // ends the progress display, nil if there is none
}

// openOutput makes sure that there is a place for the dump before anything is
// asked of the guest.
func (a *app) openOutput(o *fileOptions, domain string) (*output, error) {
	path, err := destination(o.output, domain, time.Now(), dump.Compression(o.compress))
	if err != nil {
		return nil, err
	}
	out := &output{a: a, path: path, force: o.force, manifest: o.manifest, create: dump.Create}
	if path == stdoutDestination {
		if a.json {
			return nil, usageError("--json and -o - both want standard output")
		}
		if isTerminal(a.stdout) {
			return nil, usageError("standard output is a terminal: a dump would garble it")
		}
		return out, nil
	}
	if o.manifest && !o.force {
		if _, err := os.Lstat(out.manifestPath()); err == nil {
			return nil, fmt.Errorf("write the manifest %s: %w", out.manifestPath(), fs.ErrExist)
		}
	}
	if o.held != nil {
		if err := o.held.expect(path, out.manifestPath()); err != nil {
			return nil, err
		}
		out.create = o.held.create
	}
	if out.pending, err = out.create(path, o.force); err != nil {
		return nil, err
	}
	return out, nil
}

// writer is what the dump is written to.
func (o *output) writer() io.Writer {
	if o.pending == nil {
		return o.a.stdout
	}
	return o.pending.File()
}

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
	if o.pending == nil {
		return err
	}
	return errors.Join(err, o.pending.Abort())
}

// reopen reads the written file back.
func (o *output) reopen() (*dump.File, error) {
	f := o.pending.File()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return dump.NewFile(f, info.Size())
}

// manifestPath is where the summary lies beside the dump.
func (o *output) manifestPath() string { return o.path + ".json" }

// writeManifest puts the summary beside the dump.
func (o *output) writeManifest(doc []byte) error {
	path := o.manifestPath()
	p, err := o.create(path, o.force)
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if _, err := p.File().Write(doc); err != nil {
		return errors.Join(fmt.Errorf("write the manifest %s: %w", path, err), p.Abort())
	}
	return p.Commit()
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

// sizeOf returns the length of the file at path, 0 if it can't be told.
func sizeOf(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return uint64(info.Size())
}
