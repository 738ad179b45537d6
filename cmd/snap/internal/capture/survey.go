// Package capture takes a dump: it finds out what is in a guest, decides what
// the file will hold, holds the guest still while its pages are read, and lets
// it go on every path.
package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/header"
	"snap/phys"
)

// Survey is what a guest's memory said at one moment, and the dump that
// follows from it.
type Survey struct {
	System *guest.System
	CPUs   []phys.Registers
	Header *header.Header
	Plan   *dump.Plan // Populated is left to the caller

	Adverts    *guest.Adverts // what drivers in the guest ask to leave out
	Exclusions *exclude.Plan  // what stays out, and the account of every request
	Excluded   uint64         // pages of the dump that stay out

	Took time.Duration // to find all this

	// Warnings are for the operator: what is odd and could be worked around.
	Warnings []string
}

// Options say what a dump is to be. The zero value is the default.
type Options struct {
	Comment   string // for the header
	Format    Format
	Exclusion Exclusion

	// Earlier is a look at the same guest some time before, or nil.
	Earlier *Survey
}

// ErrTooManyRuns says that a dump of the wished format has no room for so many
// separate runs of pages.
var ErrTooManyRuns = errors.New("too many runs")

// Look surveys the guest in mem. cpus may be empty where a source has none.
func Look(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers, o Options) (*Survey, error) {
	start := time.Now()
	sys, err := guest.Discover(ctx, mem, ram, cpus)
	if err != nil {
		return nil, fmt.Errorf("find Windows in guest memory: %w", err)
	}
	s := &Survey{System: sys, CPUs: cpus, Warnings: append([]string(nil), sys.Warnings...)}
	facts := s.facts(o.Comment)
	var earlier *guest.Adverts
	if o.Earlier != nil {
		earlier = o.Earlier.Adverts
	}
	if err := s.planExclusion(ctx, ram, facts.BugCheckCode.Value, o.Exclusion, earlier); err != nil {
		return nil, err
	}
	whole := pagesOf(facts.Runs.Value)
	facts.Runs = s.withoutExcluded(facts.Runs)
	s.Excluded = whole - pagesOf(facts.Runs.Value)
	if s.Header, s.Plan, err = newPlan(facts, o.Format); err != nil {
		return nil, err
	}
	if s.Plan.Overlays, err = s.overlays(ctx); err != nil {
		return nil, err
	}
	s.Took = time.Since(start)
	return s, nil
}

func pagesOf(runs []phys.Run) uint64 { return phys.Runs(runs).Pages() }

// facts collects what the header says.
func (s *Survey) facts(comment string) *header.Facts {
	sys := s.System
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
		Comment:             phys.Know(comment, "snap"),
	}
	f.SetBugCheck(sys.BugCheck.Code, sys.BugCheck.Parameter)
	var warning string
	if f.Runs, warning = sys.DumpMemory(); warning != "" {
		s.warn("%s", warning)
	}
	if at := f.PfnDatabase.Value; !at.Kernel() {
		s.warn("MmPfnDatabase is %#x, no kernel address: the header does without it", uint64(at))
		f.PfnDatabase = phys.Known[phys.VirtAddr]{}
	}
	if cpu := s.firstCPU(); cpu != nil {
		f.Context = phys.Know(s.contextOf(cpu), fmt.Sprintf("registers of vCPU %d", cpu.CPU))
	}
	return f
}

// contextOf makes the CONTEXT of the guest's machine.
func (s *Survey) contextOf(cpu *phys.Registers) []byte {
	return header.ContextFor(header.Machine(s.System.Machine.Value), cpu)
}

// firstCPU returns the registers of the processor that a debugger shows first:
// the lowest-numbered one that is known.
func (s *Survey) firstCPU() *phys.Registers {
	for _, p := range s.System.Processors {
		if p.VCPU >= 0 && p.ContextAt != 0 {
			return &s.CPUs[p.VCPU]
		}
	}
	return nil
}

// overlays lists the bytes of the dump that differ from the guest's memory:
// the decoded KDBG, and each processor's CONTEXT. What can't be placed is left
// as the guest has it, with a warning.
func (s *Survey) overlays(ctx context.Context) ([]dump.Overlay, error) {
	pages, err := phys.NewRuns(s.Plan.Runs...)
	if err != nil {
		return nil, fmt.Errorf("memory runs of the dump: %w", err)
	}
	l := &overlayList{space: s.System.Space, pages: pages}
	if s.System.KDBG.Encoded {
		if err := l.add(ctx, "KDBG", s.System.KDBG.At, s.System.KDBG.Block); err != nil {
			return nil, fmt.Errorf("place the decoded KDBG: %w", err)
		}
	}
	for _, p := range s.System.Processors {
		if p.VCPU < 0 || p.ContextAt == 0 {
			continue
		}
		what := fmt.Sprintf("CONTEXT of processor %d", p.Number)
		err := l.add(ctx, what, p.ContextAt, s.contextOf(&s.CPUs[p.VCPU]))
		switch {
		case ctx.Err() != nil:
			return nil, err
		case err != nil:
			s.warn("%s is left as the guest has it: %v", what, err)
		}
	}
	return l.done, nil
}

func (s *Survey) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

// overlayList gathers overlays at virtual addresses, piece by page.
type overlayList struct {
	space *guest.AddressSpace
	pages phys.Runs // of the dump
	done  []dump.Overlay
}

var errOverlayPlace = errors.New("not within the dump's pages")

// add places data at a virtual address: all of it, or none and an error.
func (l *overlayList) add(ctx context.Context, what string, at phys.VirtAddr, data []byte) error {
	var pieces []dump.Overlay
	for len(data) > 0 {
		n := min(len(data), phys.PageSize-int(at.Offset()))
		m, err := l.space.Translate(ctx, at)
		if err != nil {
			return err
		}
		piece := dump.Overlay{At: m.Addr, Data: data[:n], What: what}
		if !l.pages.Covers(piece.At, uint64(n)) {
			return fmt.Errorf("guest-physical %#x: %w", uint64(piece.At), errOverlayPlace)
		}
		for _, o := range append(l.done, pieces...) {
			if piece.At < o.At+phys.Addr(len(o.Data)) && o.At < piece.At+phys.Addr(n) {
				return fmt.Errorf("guest-physical %#x is also the place of %s", uint64(piece.At), o.What)
			}
		}
		pieces = append(pieces, piece)
		data = data[n:]
		var ok bool
		if at, ok = at.Add(uint64(n)); !ok && len(data) > 0 {
			return fmt.Errorf("%s wraps around the address space", what)
		}
	}
	l.done = append(l.done, pieces...)
	return nil
}
