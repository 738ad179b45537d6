package capture

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// atContext returns what of the dump is at the place of a processor's context: the
// guest's bytes, with what is laid over them.
func atContext(t *testing.T, a *Analysis, im *ntlab.Image, i int) []byte {
	t.Helper()
	var out []byte
	for va, end := im.Truth.Processors[i].Context, im.Truth.Processors[i].Context+0x4D0; va < end; va++ {
		at, ok := im.Translate(va)
		if !ok {
			t.Fatalf("no memory at %#x", uint64(va))
		}
		b := make([]byte, 1)
		if err := im.ReadPhys(t.Context(), b, at); err != nil {
			t.Fatal(err)
		}
		for _, o := range a.Plan.Overlays {
			if at >= o.At && at < o.At+phys.Addr(len(o.Data)) {
				b[0] = o.Data[at-o.At]
			}
		}
		out = append(out, b[0])
	}
	return out
}

// headerHas demands a header's context and, at its instruction, the exception that
// Windows writes of a crash (the header of the triage dump in header/testdata).
func headerHas(t *testing.T, a *Analysis, want []byte, from string) {
	t.Helper()
	got := a.Header.ContextRecord
	if !bytes.Equal(got[:len(want)], want) || bytes.ContainsFunc(got[len(want):], func(r rune) bool { return r != 0 }) {
		t.Errorf("the header's context is at Rip %#x; want one at %#x", got[0xF8:0x100], want[0xF8:0x100])
	}
	e := &a.Header.ExceptionRecord
	if rip := binary.LittleEndian.Uint64(want[0xF8:]); e.ExceptionCode != 0x80000003 || e.ExceptionFlags != 1 || uint64(e.ExceptionAddress) != rip {
		t.Errorf("the header's exception is %+v; want a breakpoint at %#x", e, rip)
	}
	for _, f := range a.Header.Fields() {
		if (f.Name == "ContextRecord" || f.Name == "ExceptionAddress") && !strings.HasPrefix(f.From, from) {
			t.Errorf("%s is from %q; want %q", f.Name, f.From, from)
		}
	}
}

// crashes are bug checks as KiBugCheckData has them.
var crashes = map[string][5]uint64{
	"DRIVER_IRQL_NOT_LESS_OR_EQUAL": {0xD1, 0x28, 2, 1, 0xFFFFF80412345678},
	"MANUALLY_INITIATED_CRASH":      {0xE2, 0, 0, 0, 0},
}

// TestCrashContexts: of a guest that shows its blue screen the header has the context
// of the processor that crashed, and all processors' places have what the guest saved,
// whether registers are known or not, and not where the processors wait since.
func TestCrashContexts(t *testing.T) {
	for _, profile := range ntlab.Profiles() {
		for name, bug := range crashes {
			vm := newGuest(t, ntlab.Config{Profile: profile, Seed: bug[0], CPUs: 4, BugCheck: bug})
			im, crash := vm.im, vm.im.Truth.Crash
			for source, cpus := range map[string][]phys.Registers{"registers": im.Registers(), "none": nil} {
				a, err := Analyze(t.Context(), im, im.RAM(), cpus, LookOptions{})
				if err != nil {
					t.Fatal(err)
				}
				headerHas(t, a, crash.Contexts[crash.Processor], "CONTEXT that the guest saved of processor ")
				for i, want := range crash.Contexts {
					if !bytes.Equal(atContext(t, a, im, i), want) {
						t.Errorf("%s of %s, %s: processor %d's place has not what the guest saved", name, profile, source, i)
					}
				}
				if len(cpus) > 0 && len(a.Warnings) > 0 {
					t.Errorf("%s of %s: warnings %q; want none", name, profile, a.Warnings)
				}
			}
		}
	}
}

// TestCrashedProcessor: which processor crashed is told from what the guest saved, and
// that it can't be told is said.
func TestCrashedProcessor(t *testing.T) {
	bug := crashes["DRIVER_IRQL_NOT_LESS_OR_EQUAL"]
	const rcx, rip = 0x80, 0xF8
	clear := func(im *ntlab.Image, i int) { write(t, im, i, make([]byte, 0x4D0)) }
	set := func(im *ntlab.Image, i, at int, v uint64) {
		write64(t, im, im.Truth.Processors[i].Context+phys.VirtAddr(at), v)
	}
	for name, tt := range map[string]struct {
		change func(im *ntlab.Image, crashed int)
		from   string // of the header's context
		warns  string
	}{
		"by its arguments": {
			change: func(im *ntlab.Image, i int) { set(im, i, rip, uint64(im.Truth.KernelBase)+0x1000) },
			from:   "CONTEXT that the guest saved of processor 1, which crashed: with the arguments",
		},
		"of a minidump": {
			change: func(im *ntlab.Image, i int) { set(im, i, rcx, bug[0]|0x10000000) },
			from:   "CONTEXT that the guest saved of processor 1, which crashed: with the arguments",
		},
		"by its place": {
			change: func(im *ntlab.Image, i int) { set(im, i, rcx, 7) },
			from:   "CONTEXT that the guest saved of processor 1, which crashed: in KeBugCheckEx",
		},
		"two crash": {
			change: func(im *ntlab.Image, i int) {
				bug := at(t, im, "KeBugCheckEx")
				set(im, 2, rip, bug)
			},
			from: "CONTEXT that the guest saved of processor 1, which crashed: with the arguments",
		},
		"two crash alike": {
			change: func(im *ntlab.Image, i int) { write(t, im, 2, im.Truth.Crash.Contexts[i]) },
			from:   "CONTEXT that the guest saved",
			warns:  "since 2 contexts that the guest saved are of KeBugCheckEx: the header's context is that of processor 1",
		},
		"not saved": {
			change: func(im *ntlab.Image, i int) { clear(im, i) },
			from:   "registers of vCPU",
			warns:  "since no context that the guest saved is of KeBugCheckEx: the header's context is that of processor 1",
		},
		"none saved": {
			change: func(im *ntlab.Image, _ int) {
				for i := range im.Truth.Processors {
					clear(im, i)
				}
			},
			from:  "registers of vCPU",
			warns: "since the guest has saved no context of a processor: the header's context is that of processor 0",
		},
		"only of others": {
			change: func(im *ntlab.Image, i int) { set(im, i, rcx, 7); set(im, i, rip, 0x7FF712345678) },
			from:   "CONTEXT that the guest saved",
			warns:  "since no context that the guest saved is of KeBugCheckEx",
		},
	} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 3, CPUs: 3, BugCheck: bug})
			im := vm.im
			if im.Truth.Crash.Processor != 1 {
				t.Fatalf("seed: processor %d crashed; want 1", im.Truth.Crash.Processor)
			}
			tt.change(im, 1)
			a, err := Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := originOf(a, "ContextRecord"); !strings.HasPrefix(got, tt.from) {
				t.Errorf("the header's context is from %q; want %q", got, tt.from)
			}
			if got := strings.Join(a.Warnings, "\n"); (got == "") != (tt.warns == "") || !strings.Contains(got, tt.warns) {
				t.Errorf("warnings %q; want %q", got, tt.warns)
			}
		})
	}
}

// TestRealCrashContext lays the CONTEXT that a real KeBugCheckEx left, of a real bug
// check (testdata/README.md), into a guest: its processor is the one that crashed.
func TestRealCrashContext(t *testing.T) {
	real, err := os.ReadFile("testdata/crash_context_19041.bin")
	if err != nil {
		t.Fatal(err)
	}
	bug := [5]uint64{0x7E, 0xffffffffc0000005, 0xfffff8048b58334c, 0xffff850429891ee8, 0xffff850429891720}
	vm := newGuest(t, ntlab.Config{Seed: 3, CPUs: 3, BugCheck: bug})
	im := vm.im
	write(t, im, 1, make([]byte, len(real)))
	write(t, im, 2, real)
	a, err := Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	headerHas(t, a, real, "CONTEXT that the guest saved of processor 2, which crashed: with the arguments")
}

// TestHeaderContext: the header of a guest that has not crashed shows a processor in the
// kernel, else one in a program of 64 bits, which is said; never one in a 32-bit one.
func TestHeaderContext(t *testing.T) {
	const user, user32 = 0x33, 0x23
	for name, tt := range map[string]struct {
		cs    []uint16 // of processors, 0 to leave the kernel's
		shown int      // processor, -1 for none
		warns string
	}{
		"all in the kernel":        {[]uint16{0, 0, 0}, 0, ""},
		"the last in the kernel":   {[]uint16{user, user32, 0}, 2, ""},
		"none in the kernel":       {[]uint16{user32, user, user}, 1, "the header's context is that of processor 1, which runs a program"},
		"all in 32-bit programs":   {[]uint16{user32, user32, user32}, -1, "the header has no context: all processors run 32-bit programs"},
		"one in the kernel's data": {[]uint16{user, 0, user}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 5, CPUs: 3})
			cpus := vm.im.Registers()
			for i, cs := range tt.cs {
				if cs != 0 {
					cpu := &cpus[vm.im.Truth.Processors[i].VCPU]
					cpu.CS.Selector = cs
					cpu.KernelGSBase, cpu.GS.Base = cpu.GS.Base, 0
				}
			}
			a, err := Analyze(t.Context(), vm.im, vm.im.RAM(), cpus, LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 0x4D0)
			from := "snap: all known processors run 32-bit programs"
			if tt.shown >= 0 {
				cpu := &cpus[vm.im.Truth.Processors[tt.shown].VCPU]
				want, from = header.ContextAMD64(cpu), "registers of vCPU "
			}
			if !bytes.Equal(a.Header.ContextRecord[:len(want)], want) {
				t.Errorf("the header's context is not that of processor %d", tt.shown)
			}
			if got := originOf(a, "ContextRecord"); !strings.HasPrefix(got, from) {
				t.Errorf("the header's context is from %q; want %q", got, from)
			}
			if got := strings.Join(a.Warnings, "\n"); (got == "") != (tt.warns == "") || !strings.Contains(got, tt.warns) {
				t.Errorf("warnings %q; want %q", got, tt.warns)
			}
		})
	}
}

// write changes what the guest saved of a processor.
func write(t *testing.T, im *ntlab.Image, i int, b []byte) {
	t.Helper()
	if err := im.WriteVirt(im.Truth.Processors[i].Context, b); err != nil {
		t.Fatal(err)
	}
}

func write64(t *testing.T, im *ntlab.Image, at phys.VirtAddr, v uint64) {
	t.Helper()
	if err := im.WriteVirt(at, binary.LittleEndian.AppendUint64(nil, v)); err != nil {
		t.Fatal(err)
	}
}

func at(t *testing.T, im *ntlab.Image, symbol string) uint64 {
	t.Helper()
	va, ok := im.Symbol(symbol)
	if !ok {
		t.Fatalf("no %s in the lab's kernel", symbol)
	}
	return uint64(va)
}

// originOf returns where a field of the header is from.
func originOf(a *Analysis, field string) string {
	for _, f := range a.Header.Fields() {
		if f.Name == field {
			return f.From
		}
	}
	return ""
}
