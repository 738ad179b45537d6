package qemu

import (
	"fmt"

	"snap/phys"
)

// finish moves the values by name into the registers, and fails if one that
// every processor has is missing.
func (t *registerText) finish() (phys.Registers, error) {
	r := &t.regs
	missing := t.general()
	take := func(name string, to *uint64) {
		v, ok := t.seen[name]
		if !ok && missing == "" {
			missing = name
		}
		*to = v
	}
	take("CR0", &r.CR0)
	take("CR2", &r.CR2)
	take("CR3", &r.CR3)
	take("CR4", &r.CR4)
	for _, n := range []string{"ES", "CS", "SS", "DS", "FS", "GS", "LDT", "TR"} {
		var ok uint64
		take("segment "+n, &ok)
	}
	for _, n := range []string{"GDT", "IDT"} {
		var ok uint64
		take("table "+n, &ok)
	}
	if missing != "" {
		return *r, fmt.Errorf("processor %d: register dump lacks %s", r.CPU, missing)
	}
	r.EFER, r.HasEFER = t.seen["EFER"]
	r.Halves = r.HasEFER && r.EFER&eferLMA != 0 && t.seen32()
	t.debug()
	t.float()
	return *r, nil
}

// eferLMA: the processor runs a 64-bit guest (Intel SDM volume 3, 2.2.1).
const eferLMA = 1 << 10

// seen32 reports whether the processor was shown as one that runs 32-bit code.
func (t *registerText) seen32() bool {
	_, ok := t.seen["EIP"]
	return ok
}

// general takes the registers that go by another name in 32-bit code, and
// returns the first that is missing.
func (t *registerText) general() string {
	r := &t.regs
	legacy := []struct {
		name string
		to   *uint64
	}{
		{"AX", &r.RAX},
		{"BX", &r.RBX},
		{"CX", &r.RCX},
		{"DX", &r.RDX},
		{"SI", &r.RSI},
		{"DI", &r.RDI},
		{"BP", &r.RBP},
		{"SP", &r.RSP},
		{"IP", &r.RIP},
		{"FL", &r.RFLAGS},
	}
	prefix := "R"
	if t.seen32() {
		prefix = "E"
	}
	for _, v := range legacy {
		got, ok := t.seen[prefix+v.name]
		if !ok {
			return prefix + v.name
		}
		*v.to = got
	}
	if prefix == "E" {
		return ""
	}
	for i, to := range []*uint64{&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15} {
		name := fmt.Sprintf("R%d", i+8)
		got, ok := t.seen[name]
		if !ok {
			return name
		}
		*to = got
	}
	return ""
}

func (t *registerText) debug() {
	t.regs.HasDebug = true
	for _, i := range []int{0, 1, 2, 3, 6, 7} {
		v, ok := t.seen[fmt.Sprintf("DR%d", i)]
		t.regs.DR[i] = v
		t.regs.HasDebug = t.regs.HasDebug && ok
	}
	if !t.regs.HasDebug {
		t.regs.DR = [8]uint64{}
	}
}

// float makes the FPU state whole. An FXSAVE image has the x87 registers by their
// distance from the top of the stack, which is in bits 11 to 13 of the status word,
// and so has QEMU what it shows under KVM, whose image it takes over as it is
// (target/i386/xsave_helper.c). Otherwise it shows them by their physical number.
func (t *registerText) float() {
	f := &t.regs.FPU
	fcw, ok1 := t.seen["FCW"]
	fsw, ok2 := t.seen["FSW"]
	ftw, ok3 := t.seen["FTW"]
	mxcsr, ok4 := t.seen["MXCSR"]
	_, ok5 := t.seen["vector 00"]
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || t.nfpr != len(t.fpr) {
		*f = phys.FPU{}
		return
	}
	t.regs.HasFPU = true
	f.FCW, f.FSW, f.FTW, f.MXCSR = uint16(fcw), uint16(fsw), uint8(ftw), uint32(mxcsr)
	top := 0
	if !t.kvm {
		top = int(fsw >> 11 & 7)
	}
	for i := range f.ST {
		f.ST[i] = t.fpr[(top+i)%len(t.fpr)]
	}
}
