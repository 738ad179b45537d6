package guest

import (
	"context"
	"errors"
	"strings"

	"snap/phys"
)

// fallback is a guest that was found but lacks something: it is the answer where
// nothing better is found.
type fallback struct {
	sys     *System
	attempt Attempt
	worth   int
	// byProcessor: a processor of the guest runs by its page tables.
	byProcessor bool
}

// What a guest is worth that lacks something. One with a KDBG is worth more than any
// without.
const (
	worthModules = 1 << iota // the module list begins with the kernel
	worthKDBG
)

// keep takes a guest that lacks something if it is worth more than the one at hand.
func (d *discovery) keep(sys *System, worth int) {
	if d.second == nil || worth > d.second.worth {
		d.second = &fallback{sys: sys, worth: worth}
	}
}

// errLacking says of a page table that it leads to a guest that lacks something, and
// that a better one is looked for.
var errLacking = errors.New("it leads to a guest that can't be read as it should")

// withoutKDBG reads the guest whose kernel has no KDBG that can be used, by the
// kernel's exports, and where those are gone too by what its variables hold. It is
// believed only if its System process has a page table that shows the same guest.
func (d *discovery) withoutKDBG(ctx context.Context, space *AddressSpace, kernel *Image, why error) (*System, int, error) {
	var none KDBG
	var held heldVariables
	find := func(ctx context.Context, s *System) (err error) {
		held, err = s.scanHeld(ctx, d.budget)
		return err
	}
	eprocess, from, err := exportedProcess(ctx, space, kernel)
	if err != nil {
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		scanErr := find(ctx, &System{Space: space, Kernel: kernel})
		if held.processes == 0 {
			return nil, 0, errors.Join(err, scanErr)
		}
		from = "the list of processes, found by what it holds"
		if eprocess, err = firstProcess(ctx, space, held.processes, &none); err != nil {
			return nil, 0, err
		}
	}
	sys, err := d.readBy(ctx, space, kernel, none, eprocess, from)
	if err != nil {
		return nil, 0, err
	}
	if held == (heldVariables{}) {
		if err := find(ctx, sys); err != nil && ctx.Err() != nil {
			return nil, 0, err
		}
	}
	if sys.PsActiveProcessHead, err = sys.processHead(ctx, d.budget); err != nil {
		return nil, 0, err
	}
	worth, err := sys.moduleHead(ctx, held.modules)
	if err != nil {
		return nil, 0, err
	}
	sys.checkModuleHead(ctx)
	sys.lack("the kernel has no debugger data block (KDBG) that can be used",
		"the kernel has no debugger data block (KDBG) that can be used (%s): the header names none and is made from the kernel's exports and lists. WinDbg and others that begin with the KDBG may refuse the dump, or show neither processors nor threads; readers that find the kernel themselves, such as volatility3, are not hindered",
		oneLine(why))
	return sys, worth, sys.recoverProcessors(ctx, d.cpus, held.processors)
}

// processHead returns PsActiveProcessHead by the links in the EPROCESS of System,
// which is the first in the list: before it is the head, which is a variable of the
// kernel, or after all others. An EPROCESS may pretend to have its links at many places,
// each the head of a list without end: what is followed is in b.
func (s *System) processHead(ctx context.Context, b *budget) (phys.Known[phys.VirtAddr], error) {
	const what = "EPROCESS of System"
	r := &record{arch: s.Space.arch, what: what, at: s.PsInitialSystemProcess, b: make([]byte, maxEProcess)}
	if _, err := readSparse(ctx, s.Space, r.b, r.at); err != nil {
		return phys.Known[phys.VirtAddr]{}, err
	}
	if kind := r.u8(0); kind != processObject {
		return phys.Known[phys.VirtAddr]{}, malformed(what, r.at, "it begins as an object of type %d", kind)
	}
	word := s.Space.arch.pointer
	for pid := minProcessID; pid+3*word <= maxEProcess; pid += word {
		links := r.at + phys.VirtAddr(pid+word)
		if r.word(pid) != systemPID || !s.isPointer(r.va(pid+word)) || !s.isPointer(r.va(pid+2*word)) {
			continue
		}
		const from = "links of the System process"
		if head := r.va(pid + 2*word); s.isHeadOf(ctx, head, links) {
			return phys.Know(head, from), nil
		}
		var head phys.VirtAddr
		err := walkList(ctx, s.Space, what, links, maxProcesses, func(entry phys.VirtAddr) error {
			if s.Kernel.Holds(entry, uint64(2*word)) {
				head = entry
				return errFound
			}
			return b.spend(workPointers, 1)
		})
		if errors.Is(err, errBudget) {
			return phys.Known[phys.VirtAddr]{}, err
		}
		if s.isHeadOf(ctx, head, links) {
			return phys.Know(head, from), nil
		}
		if err := ctx.Err(); err != nil {
			return phys.Known[phys.VirtAddr]{}, err
		}
	}
	return phys.Known[phys.VirtAddr]{}, malformed(what, r.at, "it is in no list of processes")
}

// minProcessID is below UniqueProcessId in every EPROCESS: it is behind a KPROCESS.
const minProcessID = 0x80

// errFound ends a walk.
var errFound = errors.New("found")

// isHeadOf reports whether the list head at head, a variable of the kernel, has the
// entry at first for its first one.
func (s *System) isHeadOf(ctx context.Context, head, first phys.VirtAddr) bool {
	if !s.Kernel.Holds(head, uint64(s.Space.arch.ListEntrySize())) || !s.isPointer(head) {
		return false
	}
	got, err := readVA(ctx, s.Space, "PsActiveProcessHead", head)
	return err == nil && got == first
}

// moduleHead sets PsLoadedModuleList to what the kernel exports, or where it exports
// none to held, which was found by what it holds. It returns what the list is worth,
// and fails if the list is another kernel's.
func (s *System) moduleHead(ctx context.Context, held phys.VirtAddr) (worth int, err error) {
	const what = "PsLoadedModuleList"
	at, err := s.Kernel.Export(ctx, what)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err == nil:
		s.PsLoadedModuleList = phys.Know(at, "export "+what)
	case held != 0:
		s.PsLoadedModuleList = phys.Know(held, "kernel image, by what it holds")
	default:
		return 0, err
	}
	return s.modulesWorth(ctx)
}

// checkModuleHead says so if the list of modules is cut at its head.
func (s *System) checkModuleHead(ctx context.Context) {
	if err := listHead(ctx, s.Space, "PsLoadedModuleList", s.PsLoadedModuleList.Value); err != nil {
		s.lack("the list of modules is cut at its head",
			"the list of modules is cut at its head (%v): debuggers can't list the drivers from there, nor load their symbols", err)
	}
}

// modulesWorth returns worthModules if the first module is the kernel, 0 if the list
// is cut, and fails if it is the list of another kernel.
func (s *System) modulesWorth(ctx context.Context) (int, error) {
	const what = "PsLoadedModuleList"
	head := s.PsLoadedModuleList.Value
	first, err := readVA(ctx, s.Space, what, head)
	if err != nil || !s.isPointer(first) || first == head {
		return 0, ctx.Err()
	}
	base, err := readVA(ctx, s.Space, "DllBase", first+phys.VirtAddr(s.Space.arch.layout.ldrDllBase))
	switch {
	case err != nil:
		return 0, ctx.Err()
	case base == s.Kernel.Base:
		return worthModules, nil
	case base.Kernel() && base.Offset() == 0:
		return 0, malformed(what, head, "its first module is at %#x, and not the kernel", uint64(base))
	}
	return 0, nil
}

// recoverProcessors finds the processors where no KDBG leads to KiProcessorBlock: by
// the KPCRs that vCPUs hold, or where those aren't as many as the guest says and there
// are more of them so, by held, the KiProcessorBlock that was found by what it holds.
// Without any, what the guest says of their number has to do.
func (s *System) recoverProcessors(ctx context.Context, cpus []phys.Registers, held phys.VirtAddr) error {
	expected := s.processorCount(ctx)
	byKPCR := s.processorsOfCPUs(ctx, cpus)
	if held != 0 && len(byKPCR) != expected {
		s.Processors = nil
		warnings := len(s.Warnings)
		err := s.processorsOf(ctx, held, "kernel image, KiProcessorBlock by what it holds")
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && (expected == 0 || len(s.Processors) == expected || len(s.Processors) > max(1, len(byKPCR))):
			return nil // one alone may be any pointer to a KPRCB
		}
		s.Warnings = s.Warnings[:warnings]
	}
	s.Processors = byKPCR
	if len(byKPCR) > 0 {
		s.countProcessors(expected, "KPCRs of the vCPUs")
		return ctx.Err()
	}
	s.lack("no processor's KPRCB was found",
		"no processor's KPRCB was found: debuggers can't tell the processors' contexts and threads")
	s.NumberProcessors = phys.Know(uint32(expected), "the guest's count of its processors")
	if expected == 0 {
		s.NumberProcessors = phys.Know(uint32(max(1, len(cpus))), "the source's vCPUs")
	}
	return ctx.Err()
}

// processorsOfCPUs returns the processors whose KPCRs vCPUs hold, in order of their
// numbers.
func (s *System) processorsOfCPUs(ctx context.Context, cpus []phys.Registers) []Processor {
	by := map[int]Processor{}
	placeless := s.few("processors have no place for their context")
	for i := range cpus {
		for _, kpcr := range s.Space.arch.kpcrs(ctx, s.Space, &cpus[i]) {
			prcb := kpcr + phys.VirtAddr(s.KDBG.offset(kdbgOffsetPcrContainedPrcb, s.Space.arch.layout.kpcrPrcb))
			n, err := s.numberOf(ctx, prcb)
			if err != nil || n >= maxProcessors || s.isProcessor(ctx, int(n), prcb) != nil {
				continue
			}
			p, err := s.processor(ctx, int(n), prcb)
			if _, double := by[p.Number]; err != nil || double {
				continue
			}
			if err := s.placeContext(ctx, &p); err != nil && ctx.Err() == nil {
				placeless.warn("processor %d has no place for its context: %v", n, err)
			}
			by[p.Number] = p
		}
	}
	placeless.end()
	var out []Processor
	for n := range maxProcessors {
		if p, ok := by[n]; ok {
			out = append(out, p)
		}
	}
	return out
}

// oneLine returns the first line of an error's text.
func oneLine(err error) string {
	first, _, several := strings.Cut(err.Error(), "\n")
	if several {
		first += ", and more"
	}
	return first
}
