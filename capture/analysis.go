package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"time"

	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/header"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// Analysis is what a guest's memory said at one moment, and the dump that
// follows from it.
type Analysis struct {
	System *guest.System
	CPUs   []phys.Registers
	Header *header.Header
	Plan   *dump.Plan // Populated is left to the caller

	Adverts    *guest.Adverts // what drivers in the guest ask to leave out
	Exclusions *exclude.Plan  // what stays out, and the account of every request
	Excluded   uint64         // pages of the dump that stay out
	Unmet      Unmet          // what should stay out, and doesn't or may not
	Memory     DumpedMemory   // what the dump is made of
	VBS        guest.VBS      // whether Windows has a secure kernel beside it
	VTL1       manifest.VTL1  // whether the dump holds that one's memory, empty if none was seen

	Took time.Duration // to find all this

	contexts map[int]*processorContext // by index of System.Processors

	// Warnings are for the operator: what is odd and could be worked around.
	Warnings []string
	// Contents are those of Warnings that say what the dump lacks of the guest's
	// memory, or may hold against somebody's wish.
	Contents []string

	lacks    []guest.Lack // what of the guest could not be read that debuggers need
	whyUnmet []string     // a sentence for each of Unmet but Kept
	keeps    bool         // what drivers advertise, as the operator wants
}

// ErrTooManyRuns says that a dump of the wished format has no room for so many
// separate runs of pages.
var ErrTooManyRuns = errors.New("too many runs")

// Analyze finds out what is in mem, of which only ram is read, and what the dump
// of it will be. cpus are the registers of the guest's processors, and may be
// empty where a source has none. Without a Windows that is understood the error
// is that of guest.Discover; it is exclude.ErrTooMany where more is asked to stay
// out than may, ErrNotExcluded where the operator asks in vain, ErrUnmet where all
// that is asked out must stay out and doesn't, and ErrTooManyRuns where the format
// has no room.
//
// Of an hv.DearMemory each page is read once, as far as it can be: what a running guest
// has in a page is what it had when that was first looked at. Nothing of it is kept
// after the analysis.
func Analyze(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers, o LookOptions) (a *Analysis, err error) {
	err = lookAt(ctx, mem, func(look phys.Reader) (err error) {
		a, err = analyze(ctx, look, ram, cpus, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	if partial, ok := mem.(hv.PartialMemory); ok {
		a.Memory.Lost = partial.Lost()
	}
	return a, nil
}

func analyze(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers, o LookOptions) (*Analysis, error) {
	start := time.Now()
	discovery := trace.StartRegion(ctx, "find Windows")
	sys, err := guest.Options{Scanned: o.scanned(), Published: o.Published}.Discover(ctx, mem, ram, cpus)
	discovery.End()
	if err != nil {
		return nil, fmt.Errorf("find Windows in guest memory: %w", err)
	}
	a := &Analysis{System: sys, CPUs: cpus, Warnings: append([]string(nil), sys.Warnings...)}
	processes := a.findLacks(ctx)
	a.findVBS(ctx, processes, o.ofFile)
	a.gatherContexts(ctx)
	a.warnOfHalves()
	facts := a.facts(ctx, o.Comment)
	needed, err := a.neededPages(ctx, &o.Exclusion)
	if err != nil {
		return nil, err
	}
	facts.Runs = a.chooseMemory(ram, pagesNeeded(needed), o.AllRAM)
	var earlier *guest.Adverts
	if o.Earlier != nil {
		earlier = o.Earlier.Adverts
	}
	if err := a.planExclusion(ctx, needed, facts.BugCheckCode.Value, o.Exclusion, earlier); err != nil {
		return nil, err
	}
	whole := pagesOf(facts.Runs.Value)
	facts.Runs = a.withoutExcluded(facts.Runs)
	a.Excluded = whole - pagesOf(facts.Runs.Value)
	a.warnOfHidden(a.Excluded, o.Exclusion.Limit.pages(ram.Pages()))
	defer trace.StartRegion(ctx, "plan").End()
	if a.Header, a.Plan, err = newPlan(facts, o.Format); err != nil {
		return nil, err
	}
	if a.Plan.Overlays, err = a.overlays(ctx, needed); err != nil {
		return nil, err
	}
	a.Took = time.Since(start)
	return a, nil
}

func pagesOf(runs []phys.Run) uint64 { return phys.Runs(runs).Pages() }

// facts collects what the header says, but for the runs.
func (a *Analysis) facts(ctx context.Context, comment string) *header.Facts {
	sys := a.System
	f := &header.Facts{
		Machine:             phys.Know(header.Machine(sys.Machine.Value), sys.Machine.From),
		NtBuildNumber:       sys.NtBuildNumber,
		DirectoryTableBase:  sys.DirectoryTableBase,
		PfnDatabase:         sys.MmPfnDatabase,
		PsLoadedModuleList:  sys.PsLoadedModuleList,
		PsActiveProcessHead: sys.PsActiveProcessHead,
		KdDebuggerDataBlock: sys.KdDebuggerDataBlock,
		NumberProcessors:    sys.NumberProcessors,
		SystemTime:          sys.SystemTime,
		SystemUpTime:        sys.SystemUpTime,
		ProductType:         sys.ProductType,
		SuiteMask:           sys.SuiteMask,
		BootID:              sys.BootID,
		PAE:                 phys.Know(sys.Space.Paging().PAE(), "how the System process's page tables are built"),
		Comment:             phys.Know(comment, "snap"),
	}
	f.SetBugCheck(sys.BugCheck.Code, sys.BugCheck.Parameter)
	if at := f.PfnDatabase.Value; !at.Kernel() {
		a.warn("MmPfnDatabase is %#x, no kernel address: the header does without it", uint64(at))
		f.PfnDatabase = phys.Known[phys.VirtAddr]{}
	}
	f.Context = a.chooseHeaderContext(ctx)
	return f
}

func (a *Analysis) warn(format string, args ...any) {
	a.Warnings = append(a.Warnings, fmt.Sprintf(format, args...))
}

// warnOfContents is warn for what the dump lacks, or may hold against somebody's
// wish.
func (a *Analysis) warnOfContents(format string, args ...any) {
	a.warn(format, args...)
	a.Contents = append(a.Contents, a.Warnings[len(a.Warnings)-1])
}
