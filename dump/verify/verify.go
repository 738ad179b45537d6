// Package verify judges a finished crash dump by what its readers demand, on the
// file alone: by the rules that WinDbg, kdmp-parser, LeechCore, memflow, radare2,
// volatility 2 and volatility3 check, and by walking the page tables, the debugger
// data block, the lists and the processors' contexts inside the dump, as a debugger
// does when it opens it.
//
// It tells three things apart (Level): what no reader can use, what a reader that is
// named refuses or misreads, and what merely differs from a dump that snap writes,
// as those of Windows, LiveKD and debuggers do.
//
// It judges what is in the file, not how it came to be; only dumps of runs (type 1)
// or with a bitmap (types 5 and 6) of AMD64 guests can be judged beyond their
// header. Pages that a dump leaves out are missing only where a reader needs them.
package verify

import (
	"context"
	"errors"
	"fmt"

	"snap/dump"
	"snap/guest"
	"snap/header"
	"snap/phys"
)

// Check is the verdict on one point: that nothing was found there, or a finding.
type Check struct {
	Name   string // one of the Check constants
	OK     bool   // nothing was found
	Detail string // what the dump has; of a finding, what is wrong and where

	// Of a finding:

	Level   Level    // how much it matters
	Readers []Reader // of LevelLimit: which refuse or misread the dump; never empty then
	// Meant is why a dump of snap's own may have it; empty where none may, as of
	// LevelFail.
	Meant string
	Whole bool // the file is not even what was meant to be written
}

// Report is the verdict on a dump.
type Report struct {
	OK     bool    // no finding is of LevelFail
	Checks []Check // those that could be made, in a fixed order; CheckBitmap is for types 5 and 6, CheckRuns for others
	// Skipped names the checks that a failure of others made impossible.
	Skipped []string
}

// Failed returns the findings of LevelFail.
func (r *Report) Failed() []Check {
	return r.findings(func(c *Check) bool { return c.Level == LevelFail })
}

// Findings returns all findings.
func (r *Report) Findings() []Check { return r.findings(func(*Check) bool { return true }) }

// Unmeant returns the findings that no dump of snap's own may have: all but those
// that say why it may.
func (r *Report) Unmeant() []Check { return r.findings(func(c *Check) bool { return c.Meant == "" }) }

func (r *Report) findings(which func(*Check) bool) []Check {
	var out []Check
	for _, c := range r.Checks {
		if !c.OK && which(&c) {
			out = append(out, c)
		}
	}
	return out
}

// Options says how to verify. The zero value is the default.
type Options struct {
	// SkipFrames leaves out CheckFrames, which reads the whole file.
	SkipFrames bool
	// Progress, if not nil, counts the bytes of CheckFrames.
	Progress *dump.Progress
	// Proof is of who wrote the file. If it is whole, CheckFrames holds every byte
	// of the file against it, in the background of the other checks, and decodes
	// nothing; else, and if it is nil, it decodes every frame.
	Proof *dump.Proof
}

// Verify checks f. The error is about the attempt, not about the dump: that ctx
// ended, or dump.ErrSequential for a container without random access, whose
// pages can't be looked up. A finding does not stop the other checks, unless they
// need what its check looked for.
func Verify(ctx context.Context, f *dump.File, o Options) (*Report, error) {
	return verify(ctx, f, o, checks())
}

// verify is Verify by the given checks.
func verify(ctx context.Context, f *dump.File, o Options, checks []check) (*Report, error) {
	if c := f.Container(); !c.RandomAccess {
		return nil, fmt.Errorf("verify a %s file: %w", c.Compression, dump.ErrSequential)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := &verifier{ctx: ctx, f: f, opts: o, state: map[string]bool{}}
	if v.wantsFrames() && o.Proof.Whole() {
		// It needs none of the other checks. Nothing reads the file when all is over.
		ended := v.readBack()
		defer func() {
			cancel()
			<-ended
		}()
	}
	for _, c := range checks {
		v.run(c)
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	v.report.OK = len(v.report.Failed()) == 0
	return &v.report, nil
}

// verifier is one Verify. A check leaves in it what later ones build on.
type verifier struct {
	ctx    context.Context
	f      *dump.File
	opts   Options
	report Report
	state  map[string]bool // by name of the checks made: whether they passed

	header   *header.Header
	root     phys.Addr // DirectoryTableBase without the bits that a CR3 has beside the address
	space    *guest.AddressSpace
	kuser    guest.KUSER
	kdbg     guest.KDBG
	system   *guest.System
	contexts []processorContext

	processes []guest.Process

	proven chan error // what became of holding the file against a proof; nil without
}

func (v *verifier) run(c check) {
	for _, need := range c.needs {
		if !v.state[need] {
			v.report.Skipped = append(v.report.Skipped, c.name)
			return
		}
	}
	if c.applies != nil && !c.applies(v) {
		v.state[c.name] = true
		return
	}
	detail, err := c.make(v)
	if err != nil {
		detail = err.Error()
	}
	v.state[c.name] = err == nil
	made := Check{Name: c.name, OK: err == nil, Detail: detail}
	if err != nil {
		made.Level, made.Readers, made.Meant, made.Whole = c.level, c.readers, c.meant, c.whole
	}
	v.report.Checks = append(v.report.Checks, made)
}

// readBack begins to hold the file against the proof.
func (v *verifier) readBack() (ended <-chan struct{}) {
	v.proven = make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.proven <- v.f.CheckStored(v.ctx, v.opts.Proof, v.opts.Progress)
	}()
	return done
}

func (v *verifier) checkFrames() (string, error) {
	if v.proven != nil {
		if err := <-v.proven; err != nil {
			return "", err
		}
		return proven(v.opts.Proof, v.f.Container()), nil
	}
	if err := v.f.CheckFrames(v.ctx, v.opts.Progress); err != nil {
		return "", err
	}
	switch c := v.f.Container(); {
	case c.Compression == dump.CompressionNone:
		return "a plain file has none; all of it can be read", nil
	case c.Compression == dump.CompressionZip:
		return fmt.Sprintf("the checksum of all of it matches, %d frames", c.Frames), nil
	case !c.Checksums:
		return fmt.Sprintf("%d frames expand; the seek table has no checksums", c.Frames), nil
	default:
		return fmt.Sprintf("%d frames match", c.Frames), nil
	}
}

// proven says what is known of a file all of whose bytes are those that were written.
func proven(p *dump.Proof, c dump.Container) string {
	all := fmt.Sprintf("all %d bytes are those that were written", c.FileSize)
	if p.Frames == 0 {
		return all
	}
	return fmt.Sprintf("%s: %d frames, %d of zeros, %d of the others expanded and compared with their pages as they were made",
		all, p.Frames, p.Zero, p.Decoded)
}

// hex is how addresses are shown.
func hex[T ~uint64](v T) string { return fmt.Sprintf("%#x", uint64(v)) }

// inDump explains an address that the dump should hold and doesn't.
func inDump(err error) error {
	if errors.Is(err, phys.ErrNotRAM) {
		return fmt.Errorf("%w: the page is not in the dump", err)
	}
	return err
}
