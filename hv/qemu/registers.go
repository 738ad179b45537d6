package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"snap/hv"
	"snap/phys"
)

// vcpu is an entry of QMP query-cpus-fast.
type vcpu struct {
	Index  int `json:"cpu-index"`
	Thread int `json:"thread-id"` // of QEMU, in its PID namespace
}

// Registers returns the state of every processor, in QEMU's order. It comes from
// `info registers -a`, which lacks KERNEL_GS_BASE and LSTAR. For a processor that
// runs 32-bit code of a 64-bit guest it also lacks R8 to R15 and the upper halves
// of the other general registers and of the segment bases; those are zero then, and
// Halves says so.
func (g *Guest) Registers(ctx context.Context) ([]phys.Registers, error) {
	cpus, err := qmp[[]vcpu](ctx, g, "query-cpus-fast")
	if err != nil {
		return nil, err
	}
	text, err := g.hmp(ctx, "info registers -a")
	if err != nil {
		return nil, err
	}
	kvm, err := g.underKVM(ctx)
	if err != nil {
		return nil, err
	}
	regs, err := parseRegisters(text, kvm)
	if err != nil {
		return nil, fmt.Errorf("registers of domain %q: %w: %w", g.o.Name, hv.ErrNotUnderstood, err)
	}
	if err := sameCPUs(regs, cpus); err != nil {
		return nil, fmt.Errorf("registers of domain %q: %w: %w", g.o.Name, hv.ErrNotUnderstood, err)
	}
	return regs, nil
}

// sameCPUs holds the processors of the register dump against QMP's list.
func sameCPUs(regs []phys.Registers, cpus []vcpu) error {
	var got, want []int
	for _, r := range regs {
		got = append(got, r.CPU)
	}
	for _, c := range cpus {
		want = append(want, c.Index)
	}
	slices.Sort(want)
	if !slices.IsSorted(got) || !slices.Equal(got, want) {
		return fmt.Errorf("register dump has processors %v; query-cpus-fast has %v", got, want)
	}
	return nil
}

// Forms of x86_cpu_dump_state in QEMU's target/i386/cpu-dump.c.
var (
	cpuLine     = regexp.MustCompile(`^CPU#(\d+)$`)
	segmentLine = regexp.MustCompile(`^(ES|CS|SS|DS|FS|GS|LDT|TR) *=([0-9a-f]{4}) ([0-9a-f]{8}(?:[0-9a-f]{8})?) ([0-9a-f]{8}) ([0-9a-f]{8})`)
	tableLine   = regexp.MustCompile(`^(GDT|IDT)= +([0-9a-f]{8}(?:[0-9a-f]{8})?) ([0-9a-f]{8})$`)
	fprValue    = regexp.MustCompile(`FPR([0-7])=([0-9a-f]{16}) ([0-9a-f]{4})`)
	vectorValue = regexp.MustCompile(`([XYZ])MM(\d\d)=((?:[0-9a-f]{16} ?)+)`)
	plainValue  = regexp.MustCompile(`\b([A-Z][A-Z0-9]*) ?=([0-9a-f]+)`)
)

// parseRegisters reads the output of `info registers -a` of a guest under KVM or
// not, processors in the order in which they are listed.
func parseRegisters(text string, kvm bool) ([]phys.Registers, error) {
	var out []phys.Registers
	var cur *registerText
	flush := func() error {
		if cur == nil {
			return nil
		}
		r, err := cur.finish()
		out = append(out, r)
		return err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n ")
		if m := cpuLine.FindStringSubmatch(line); m != nil {
			if err := flush(); err != nil {
				return nil, err
			}
			n, err := strconv.Atoi(m[1])
			if err != nil || len(out) == maxCPUs {
				return nil, fmt.Errorf("%q is one processor too many", line)
			}
			cur = &registerText{regs: phys.Registers{CPU: n}, seen: make(map[string]uint64), kvm: kvm}
			continue
		}
		if cur == nil {
			if line != "" {
				return nil, fmt.Errorf("register dump begins with %q; want a processor", line)
			}
			continue
		}
		if err := cur.line(line); err != nil {
			return nil, fmt.Errorf("processor %d: %w", cur.regs.CPU, err)
		}
	}
	if err := flush(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errors.New("register dump has no processor")
	}
	return out, nil
}

// registerText is one processor's text on its way to values.
type registerText struct {
	regs phys.Registers
	seen map[string]uint64 // plain values by name
	fpr  [8][10]byte       // by physical register, not by stack position
	nfpr int
	kvm  bool
}

func (t *registerText) line(line string) error {
	if m := segmentLine.FindStringSubmatch(line); m != nil {
		return t.segment(m)
	}
	if m := tableLine.FindStringSubmatch(line); m != nil {
		return t.table(m)
	}
	if ms := fprValue.FindAllStringSubmatch(line, -1); ms != nil {
		for _, m := range ms {
			if err := t.x87(m); err != nil {
				return err
			}
		}
		return nil
	}
	if ms := vectorValue.FindAllStringSubmatch(line, -1); ms != nil {
		for _, m := range ms {
			if err := t.vector(m); err != nil {
				return err
			}
		}
		return nil
	}
	for _, m := range plainValue.FindAllStringSubmatch(line, -1) {
		v, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
		if _, dup := t.seen[m[1]]; dup {
			return fmt.Errorf("%s is there twice", m[1])
		}
		t.seen[m[1]] = v
	}
	return nil
}

func (t *registerText) segment(m []string) error {
	sel, err1 := strconv.ParseUint(m[2], 16, 16)
	base, err2 := strconv.ParseUint(m[3], 16, 64)
	limit, err3 := strconv.ParseUint(m[4], 16, 32)
	flags, err4 := strconv.ParseUint(m[5], 16, 32)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("segment %s: %w", m[1], err)
	}
	seg := map[string]*phys.Segment{
		"ES": &t.regs.ES, "CS": &t.regs.CS, "SS": &t.regs.SS, "DS": &t.regs.DS,
		"FS": &t.regs.FS, "GS": &t.regs.GS, "LDT": &t.regs.LDT, "TR": &t.regs.TR,
	}[m[1]]
	*seg = phys.Segment{Selector: uint16(sel), Base: base, Limit: uint32(limit), Flags: uint32(flags)}
	t.seen["segment "+m[1]] = 1
	return nil
}

func (t *registerText) table(m []string) error {
	base, err1 := strconv.ParseUint(m[2], 16, 64)
	limit, err2 := strconv.ParseUint(m[3], 16, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%s: %w", m[1], err)
	}
	dt := &t.regs.GDT
	if m[1] == "IDT" {
		dt = &t.regs.IDT
	}
	*dt = phys.DescriptorTable{Base: base, Limit: uint32(limit)}
	t.seen["table "+m[1]] = 1
	return nil
}

func (t *registerText) x87(m []string) error {
	i, err1 := strconv.Atoi(m[1])
	mant, err2 := strconv.ParseUint(m[2], 16, 64)
	exp, err3 := strconv.ParseUint(m[3], 16, 16)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("FPR%s: %w", m[1], err)
	}
	binary.LittleEndian.PutUint64(t.fpr[i][:8], mant)
	binary.LittleEndian.PutUint16(t.fpr[i][8:], uint16(exp))
	t.nfpr++
	return nil
}

// vector takes the low 128 bits of a register that is shown with its highest
// word first.
func (t *registerText) vector(m []string) error {
	words := strings.Fields(m[3])
	if want := map[string]int{"X": 2, "Y": 4, "Z": 8}[m[1]]; len(words) != want {
		return fmt.Errorf("%sMM%s has %d words; want %d", m[1], m[2], len(words), want)
	}
	i, err := strconv.Atoi(m[2])
	if err != nil || i >= len(t.regs.FPU.XMM) {
		return err // ZMM16 to ZMM31 are no part of the SSE state
	}
	for j, w := range []string{words[len(words)-1], words[len(words)-2]} {
		v, err := strconv.ParseUint(w, 16, 64)
		if err != nil {
			return fmt.Errorf("%sMM%s: %w", m[1], m[2], err)
		}
		binary.LittleEndian.PutUint64(t.regs.FPU.XMM[i][8*j:], v)
	}
	t.seen["vector "+m[2]] = 1
	return nil
}
