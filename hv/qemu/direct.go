package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"snap/hv"
	"snap/hv/qemu/internal/procmem"
	"snap/phys"
)

// OpenDirect opens the guest's memory in QEMU's process, which must run on this
// host, as m says where it is. The error is hv.ErrUnsupported if the process isn't
// here or isn't known to be the right one, and hv.ErrDenied if the host forbids it.
// The caller closes the memory.
func (g *Guest) OpenDirect(ctx context.Context, m RAMMap) (hv.Memory, error) {
	pid, cpus, err := g.process(ctx)
	if err != nil {
		return nil, err
	}
	var ranges []procmem.Range
	for _, r := range m.ranges {
		hva, err := g.hostAddress(ctx, r)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, procmem.Range{Run: r.run, HVA: hva})
	}
	mem, err := procmem.Open(pid, ranges, func() error { return g.verifyProcess(pid, cpus) })
	if err != nil {
		return nil, err
	}
	return mem, nil
}

// process finds QEMU's process by its processors, without a look at whether it is
// the right one.
func (g *Guest) process(ctx context.Context) (pid int, cpus []vcpu, err error) {
	if cpus, err = qmp[[]vcpu](ctx, g, "query-cpus-fast"); err != nil {
		return 0, nil, err
	}
	pid, err = processOf(cpus)
	return pid, cpus, err
}

// processOf returns the process that the processors' threads belong to.
func processOf(cpus []vcpu) (int, error) {
	pid := 0
	for _, c := range cpus {
		if c.Thread <= 0 {
			return 0, fmt.Errorf("%w: QEMU gave thread id %d for processor %d", hv.ErrUnsupported, c.Thread, c.Index)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Thread))
		if err != nil {
			return 0, fmt.Errorf("%w: thread %d of processor %d is not on this host: %w", hv.ErrUnsupported, c.Thread, c.Index, err)
		}
		m := tgidLine.FindSubmatch(text)
		if m == nil {
			return 0, fmt.Errorf("thread %d: status has no Tgid", c.Thread)
		}
		tgid, err := strconv.Atoi(string(m[1]))
		if err != nil || tgid <= 0 || (pid != 0 && pid != tgid) {
			return 0, fmt.Errorf("%w: threads of the processors are of processes %d and %s", hv.ErrUnsupported, pid, m[1])
		}
		pid = tgid
	}
	if pid == 0 {
		return 0, fmt.Errorf("%w: QEMU lists no processors", hv.ErrUnsupported)
	}
	return pid, nil
}

var tgidLine = regexp.MustCompile(`(?m)^Tgid:\s+(\d+)$`)

// verifyProcess fails unless pid is the QEMU that runs this guest.
func (g *Guest) verifyProcess(pid int, cpus []vcpu) error {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return fmt.Errorf("%w: read command line of process %d: %w", hv.ErrUnsupported, pid, err)
	}
	args := strings.Split(string(raw), "\x00")
	i := slices.Index(args, "-uuid")
	if g.o.UUID == "" || i < 0 || i+1 >= len(args) || !strings.EqualFold(args[i+1], g.o.UUID) {
		return fmt.Errorf("%w: process %d is not the QEMU of domain %q", hv.ErrUnsupported, pid, g.o.Name)
	}
	for _, c := range cpus {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, c.Thread)); err != nil {
			return fmt.Errorf("%w: processor %d has no thread in process %d: %w", hv.ErrUnsupported, c.Index, pid, err)
		}
	}
	return g.comparePIDFile(pid)
}

// comparePIDFile fails if the note of the process says otherwise. A note that isn't
// there or can't be read says nothing.
func (g *Guest) comparePIDFile(pid int) error {
	raw, err := os.ReadFile(g.o.PIDFile)
	if err != nil {
		return nil //nolint:nilerr // only a second opinion
	}
	if got, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && got != pid {
		return fmt.Errorf("%w: %s says process %d, QEMU says %d", hv.ErrUnsupported, g.o.PIDFile, got, pid)
	}
	return nil
}

// hostAddress asks where r lies in QEMU. First and last page must be as far apart
// there as in the guest.
func (g *Guest) hostAddress(ctx context.Context, r ramRange) (uint64, error) {
	first, err := g.gpa2hva(ctx, r.run.Base.Addr(), r.block)
	if err != nil {
		return 0, err
	}
	last := r.run.End().Addr() - phys.PageSize
	end, err := g.gpa2hva(ctx, last, r.block)
	if err != nil {
		return 0, err
	}
	if end-first != uint64(last-r.run.Base.Addr()) {
		return 0, fmt.Errorf("%w: %s %v is not in one piece in QEMU: %#x to %#x", hv.ErrUnsupported, r.block, r.run, first, end)
	}
	return first, nil
}

// gpa2hva is QEMU's command of that name. Its sibling gpa2hpa must never be used:
// it writes to the page.
func (g *Guest) gpa2hva(ctx context.Context, at phys.Addr, block string) (uint64, error) {
	text, err := g.hmp(ctx, fmt.Sprintf("gpa2hva %#x", uint64(at)))
	if err != nil {
		return 0, err
	}
	hva, err := parseGPA2HVA(text, at, block)
	if err != nil {
		return 0, fmt.Errorf("%w: host address of guest-physical %#x: %w", hv.ErrUnsupported, uint64(at), err)
	}
	return hva, nil
}

// hvaLine is the answer of hmp_gpa2hva (QEMU's monitor/hmp-cmds-target.c).
var hvaLine = regexp.MustCompile(`^Host virtual address for 0x([0-9a-f]+) \((.*)\) is 0x([0-9a-f]+)$`)

func parseGPA2HVA(text string, at phys.Addr, block string) (uint64, error) {
	text = strings.TrimSpace(text)
	m := hvaLine.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("monitor answered %q", text)
	}
	gpa, err1 := strconv.ParseUint(m[1], 16, 64)
	hva, err2 := strconv.ParseUint(m[3], 16, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	if gpa != uint64(at) || blockName(m[2]) != block || hva%phys.PageSize != 0 {
		return 0, fmt.Errorf("monitor answered %q; want an aligned address in %s", text, block)
	}
	return hva, nil
}
