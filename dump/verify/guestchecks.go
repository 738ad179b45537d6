package verify

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"snap/guest"
	"snap/header"
	"snap/phys"
)

// maxClockDrift is how far the header's times may be from the dumped
// KUSER_SHARED_DATA's: the header is made first, and a guest that is dumped
// while it runs goes on.
const maxClockDrift = 24 * time.Hour

const tick = 100 * time.Nanosecond // of FILETIME and of interrupt time

// drift says how far apart two times are in units of 100 ns.
func drift(name string, got, want uint64) error {
	if got == header.Unset64 {
		return fmt.Errorf("%s is not set", name)
	}
	const limit = uint64(maxClockDrift / tick)
	if d := max(got, want) - min(got, want); d > limit {
		return fmt.Errorf("%s %#x is far from the guest's, %#x", name, got, want)
	}
	return nil
}

func (v *verifier) checkVersion() (string, error) {
	h, k, s := v.header, &v.kuser, v.system
	same := func(name string, got, want uint32) error {
		switch got {
		case want:
			return nil
		case header.Unset32:
			return fmt.Errorf("%s is not set", name)
		default:
			return fmt.Errorf("%s is %#x; the guest says %#x", name, got, want)
		}
	}
	var boot error
	if k.NtMajorVersion >= 10 { // older ones have no BootId there
		boot = same("BootId", h.BootID, k.BootID)
	}
	err := errors.Join(
		same("MajorVersion", h.MajorVersion, s.NtBuildNumber.Value>>28),
		same("MinorVersion", h.MinorVersion, s.Build()),
		same("ProductType", h.ProductType, k.NtProductType),
		same("SuiteMask", h.SuiteMask, k.SuiteMask),
		boot,
		drift("SystemTime", h.SystemTime, k.SystemTime),
		drift("SystemUpTime", h.SystemUpTime, k.InterruptTime),
	)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("build %d, product type %d, %s", h.MinorVersion, h.ProductType,
		header.FileTime(h.SystemTime).Format(time.DateTime+" MST")), nil
}

func (v *verifier) checkModules() (string, error) {
	modules, err := v.system.Modules(v.ctx)
	if err != nil {
		return "", fmt.Errorf("after %d modules: %w", len(modules), err)
	}
	for _, m := range modules {
		if m.Base == v.system.Kernel.Base {
			return fmt.Sprintf("%d modules", len(modules)), nil
		}
	}
	return "", fmt.Errorf("the kernel at %#x is not among the %d modules", uint64(v.system.Kernel.Base), len(modules))
}

// systemPID is the process id of System.
const systemPID = 4

func (v *verifier) checkProcesses() (string, error) {
	processes, err := v.system.Processes(v.ctx)
	if err != nil {
		return "", fmt.Errorf("after %d processes: %w", len(processes), err)
	}
	v.processes = processes
	if _, ok := v.systemTable(); !ok {
		return "", fmt.Errorf("no System among the %d processes", len(processes))
	}
	return fmt.Sprintf("%d processes", len(processes)), nil
}

// systemTable is the page table of System, by the process list.
func (v *verifier) systemTable() (phys.Addr, bool) {
	for _, p := range v.processes {
		if p.PID == systemPID {
			return p.DirectoryTableBase, true
		}
	}
	return 0, false
}

// checkSystemTable: Windows before 8 writes the page table of the process that
// happens to run.
func (v *verifier) checkSystemTable() (string, error) {
	table, _ := v.systemTable()
	if table == v.root {
		return hex(v.root), nil
	}
	whose := "no process's"
	for _, p := range v.processes {
		if p.DirectoryTableBase == v.root {
			whose = fmt.Sprintf("that of %q, PID %d", p.Name, p.PID)
			break
		}
	}
	return "", fmt.Errorf("the page table of System is %#x; the header says %#x, which is %s", uint64(table), uint64(v.root), whose)
}

func (v *verifier) checkProcessors() (string, error) {
	got, want := v.header.NumberProcessors, len(v.system.Processors)
	if want == 0 || got != uint32(want) {
		return "", fmt.Errorf("%d; KiProcessorBlock has %d sound entries%s", got, want, v.warnings("processor"))
	}
	return fmt.Sprint(got), nil
}

// warnings are those of guest.Open that speak of something.
func (v *verifier) warnings(word string) string {
	var out strings.Builder
	for _, w := range v.system.Warnings {
		if strings.Contains(w, word) {
			out.WriteString("; " + w)
		}
	}
	return out.String()
}

func (v *verifier) checkContexts() (string, error) {
	if len(v.system.Processors) == 0 {
		return "", errors.New("no processor in KiProcessorBlock is sound")
	}
	var errs []error
	for _, p := range v.system.Processors {
		c, err := v.readContext(p)
		if err == nil {
			v.contexts = append(v.contexts, processorContext{p.Number, c})
			err = PlausibleContext(&c, v.system.Space)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("processor %d: context at %#x: %w", p.Number, uint64(p.ContextAt), err))
		}
	}
	if len(errs) > 0 {
		return "", errors.Join(errs[:min(len(errs), maxReported)]...)
	}
	return fmt.Sprintf("%d, all plausible", len(v.contexts)), nil
}

// processorContext is what the dump says of a processor.
type processorContext struct {
	number int
	header.Context
}

// maxReported is how many faults of one kind a detail lists.
const maxReported = 4

func (v *verifier) readContext(p guest.Processor) (header.Context, error) {
	if p.ContextAt == 0 {
		return header.Context{}, fmt.Errorf("none%s", v.warnings(fmt.Sprintf("processor %d ", p.Number)))
	}
	m := v.header.MachineImageType
	b := make([]byte, m.ContextSize())
	if err := v.system.Space.ReadVirt(v.ctx, b, p.ContextAt); err != nil {
		return header.Context{}, inDump(err)
	}
	return header.DecodeContext(m, b)
}

// neededFlags are the groups of registers that every writer of dumps fills
// (elf2dmp writes these only).
const neededFlags = header.ContextControl | header.ContextInteger | header.ContextSegments

const eflagsAlwaysOne = 1 << 1 // Intel SDM volume 1, 3.4.3

// PlausibleContext says what a debugger could not use in the context of a processor
// whose guest pages as space does; nil if it could use all of it.
func PlausibleContext(c *header.Context, space *guest.AddressSpace) error {
	arch := space.Arch()
	needed := header.Machine(arch.Machine()).ContextFlag() | neededFlags
	switch {
	case c.Flags&needed != needed:
		return fmt.Errorf("ContextFlags %#x lack %#x", c.Flags, needed&^c.Flags)
	case c.SegCs == 0 || c.SegSs == 0 || c.SegDs == 0 || c.SegEs == 0 || c.SegFs == 0:
		return fmt.Errorf("null selector in CS %#x, SS %#x, DS %#x, ES %#x, FS %#x", c.SegCs, c.SegSs, c.SegDs, c.SegEs, c.SegFs)
	case c.EFlags&eflagsAlwaysOne == 0:
		return fmt.Errorf("EFlags %#x, in which bit 1 must be set", c.EFlags)
	case c.Rip == 0 || !space.Canonical(arch.Address(c.Rip)):
		return fmt.Errorf("no processor can be at instruction %#x", c.Rip)
	case !space.Canonical(arch.Address(c.Rsp)):
		return fmt.Errorf("no stack can be at %#x", c.Rsp)
	}
	return sameMxCsr(c)
}

// sameMxCsr is kdmp-parser's test of a context of AMD64. That of x86 has one MXCSR only.
func sameMxCsr(c *header.Context) error {
	if c.Flags&header.ContextFlagAMD64 != 0 && c.MxCsr != c.FltMxCsr() {
		return fmt.Errorf("MxCsr %#x, and %#x in FltSave", c.MxCsr, c.FltMxCsr())
	}
	return nil
}

// headerContext returns the header's context, false if it says that nothing of it is
// valid: the area is zero, as KeInitializeCrashDumpHeader leaves it.
func (v *verifier) headerContext() (header.Context, bool) {
	c, err := header.DecodeContext(v.header.MachineImageType, v.header.ContextRecord)
	return c, err == nil && c.Flags != 0
}

// hasContexts reports whether there is a context in the header, and a KDBG that leads
// to those of the processors.
func (v *verifier) hasContexts() bool {
	_, ok := v.headerContext()
	return ok && v.hasKDBG()
}

func (v *verifier) checkHasContext() (string, error) {
	c, ok := v.headerContext()
	if !ok {
		return "", errors.New("there is none, as KeInitializeCrashDumpHeader leaves it")
	}
	return fmt.Sprintf("flags %#x", c.Flags), nil
}

// checkHeaderContext: LiveKD's is of another moment than the pages.
func (v *verifier) checkHeaderContext() (string, error) {
	area := v.header.ContextRecord
	c, _ := v.headerContext()
	size := v.header.MachineImageType.ContextSize()
	var behind error
	if rest := area[size:]; !bytes.Equal(rest, make([]byte, len(rest))) {
		behind = fmt.Errorf("bytes other than 0 behind the CONTEXT's %#x", size)
	}
	for _, p := range v.contexts {
		if p.Rsp == c.Rsp && p.Rip == c.Rip {
			return fmt.Sprintf("as processor %d, at %#x", p.number, c.Rip), behind
		}
	}
	return "", errors.Join(fmt.Errorf("no processor is at its instruction %#x and stack %#x", c.Rip, c.Rsp), behind)
}
