// Package verify checks a finished crash dump against everything that its
// readers demand, on the file alone: the rules that WinDbg, kdmp-parser,
// LeechCore, memflow, rizin and volatility3 check, by walking the page tables,
// the debugger data block, the lists and the processors' contexts inside the
// dump, as a debugger does when it opens it.
//
// It judges what is in the file, not how it came to be; only full dumps, of runs
// (type 1) or with a bitmap (type 5), of AMD64 guests can be checked beyond
// their header. Pages that a dump leaves out are missing only where a reader
// needs them.
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

// The checks, by the names that reports give them. They are stable.
const (
	CheckHeader            = "header"
	CheckRuns              = "physical memory runs"
	CheckBitmap            = "page bitmap"
	CheckKind              = "dump type and machine"
	CheckFileSize          = "file size"
	CheckRequiredDumpSpace = "RequiredDumpSpace"
	CheckExceptionRecord   = "exception record"
	CheckOtherFields       = "other header fields"
	CheckDirectoryTable    = "DirectoryTableBase"
	CheckPageTables        = "page tables"
	CheckKUSER             = "KUSER_SHARED_DATA"
	CheckKDBG              = "KDBG"
	CheckListHeads         = "list heads"
	CheckKernel            = "kernel image"
	CheckVersion           = "version and times"
	CheckModules           = "module list"
	CheckProcesses         = "process list"
	CheckProcessors        = "NumberProcessors"
	CheckContexts          = "processor contexts"
	CheckHeaderContext     = "header context"
	CheckFrames            = "container checksums"
)

// Check is the verdict on one point.
type Check struct {
	Name   string // one of the Check constants
	OK     bool
	Detail string // what was found; where OK is false, what is wrong and where
	Whole  bool   // without it the file is not even what was meant to be written
}

// Report is the verdict on a dump.
type Report struct {
	OK     bool    // every check passed
	Checks []Check // those that could be made, in a fixed order; CheckBitmap is for types 5 and 6, CheckRuns for others
	// Skipped names the checks that the failure of others made impossible.
	Skipped []string
}

// Failed returns the checks that failed.
func (r *Report) Failed() []Check {
	var out []Check
	for _, c := range r.Checks {
		if !c.OK {
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
}

// Verify checks f. The error is about the attempt, not about the dump: that ctx
// ended, or dump.ErrSequential for a container without random access, whose
// pages can't be looked up. A failed check does not stop the others, unless they need what it
// looked for.
func Verify(ctx context.Context, f *dump.File, o Options) (*Report, error) {
	return verify(ctx, f, o, checks())
}

// verify is Verify by the given checks.
func verify(ctx context.Context, f *dump.File, o Options, checks []check) (*Report, error) {
	if c := f.Container(); !c.RandomAccess {
		return nil, fmt.Errorf("verify a %s file: %w", c.Compression, dump.ErrSequential)
	}
	v := &verifier{ctx: ctx, f: f, opts: o, state: map[string]bool{}}
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
	space    *guest.AddressSpace
	kuser    guest.KUSER
	kdbg     guest.KDBG
	system   *guest.System
	contexts []processorContext
}

// check is one point: of which dumps it is made, what it needs to have passed
// before, and how it is made.
type check struct {
	name  string
	needs []string
	make  func(*verifier) (detail string, err error)
	// applies says whether the dump has what is to be checked; nil for always.
	// Those that need a check which doesn't apply are made.
	applies func(*verifier) bool
	// whole: without it the file is not even what was meant to be written.
	whole bool
}

// checks returns every point, in the order of the report.
func checks() []check {
	return []check{
		{name: CheckHeader, make: (*verifier).checkHeader},
		{name: CheckRuns, needs: []string{CheckHeader}, make: (*verifier).checkRuns, applies: (*verifier).hasRuns},
		{name: CheckBitmap, needs: []string{CheckHeader}, make: (*verifier).checkBitmap, applies: (*verifier).hasBitmap},
		{name: CheckKind, needs: []string{CheckHeader, CheckRuns, CheckBitmap}, make: (*verifier).checkKind},
		{name: CheckFileSize, needs: []string{CheckKind}, make: (*verifier).checkFileSize, whole: true},
		{name: CheckRequiredDumpSpace, needs: []string{CheckKind}, make: (*verifier).checkRequiredDumpSpace},
		{name: CheckExceptionRecord, needs: []string{CheckKind}, make: (*verifier).checkExceptionRecord},
		{name: CheckOtherFields, needs: []string{CheckKind}, make: (*verifier).checkOtherFields},
		{name: CheckDirectoryTable, needs: []string{CheckKind}, make: (*verifier).checkDirectoryTable},
		{name: CheckPageTables, needs: []string{CheckDirectoryTable}, make: (*verifier).checkPageTables},
		{name: CheckKUSER, needs: []string{CheckDirectoryTable}, make: (*verifier).checkKUSER},
		{name: CheckKDBG, needs: []string{CheckDirectoryTable}, make: (*verifier).checkKDBG},
		{name: CheckListHeads, needs: []string{CheckKDBG}, make: (*verifier).checkListHeads},
		{name: CheckKernel, needs: []string{CheckKDBG, CheckKUSER}, make: (*verifier).checkKernel},
		{name: CheckVersion, needs: []string{CheckKernel}, make: (*verifier).checkVersion},
		{name: CheckModules, needs: []string{CheckKernel}, make: (*verifier).checkModules},
		{name: CheckProcesses, needs: []string{CheckKernel}, make: (*verifier).checkProcesses},
		{name: CheckProcessors, needs: []string{CheckKernel}, make: (*verifier).checkProcessors},
		{name: CheckContexts, needs: []string{CheckKernel}, make: (*verifier).checkContexts},
		{name: CheckHeaderContext, needs: []string{CheckKernel}, make: (*verifier).checkHeaderContext},
		{name: CheckFrames, make: (*verifier).checkFrames, applies: (*verifier).wantsFrames, whole: true},
	}
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
	v.report.Checks = append(v.report.Checks, Check{Name: c.name, OK: err == nil, Detail: detail, Whole: c.whole})
}

// hasBitmap reports whether the dump is of a type with a bitmap. A header without
// runs to speak of is not even decoded.
func (v *verifier) hasBitmap() bool { return v.header != nil && v.header.DumpType.HasBitmap() }

func (v *verifier) hasRuns() bool { return !v.hasBitmap() }

func (v *verifier) wantsFrames() bool { return !v.opts.SkipFrames }

func (v *verifier) checkFrames() (string, error) {
	if err := v.f.CheckFrames(v.ctx, v.opts.Progress); err != nil {
		return "", err
	}
	switch c := v.f.Container(); {
	case c.Compression == dump.CompressionNone:
		return "a plain file has none; all of it can be read", nil
	case !c.Checksums:
		return fmt.Sprintf("%d frames expand; the seek table has no checksums", c.Frames), nil
	default:
		return fmt.Sprintf("%d frames match", c.Frames), nil
	}
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
