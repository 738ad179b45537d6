package vmstate

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"snap/phys"
)

// The section of a processor (QEMU: target/i386/machine.c, vmstate_x86_cpu).
// Fields have not moved in this version of it, which is all that x86 QEMU writes.
const (
	cpuName    = "cpu"
	cpuVersion = 12
	cpuSize    = 1817 // without subsections

	defaultMaxCPUs = 4096 // QEMU's machines stop there
)

// field is a field's place in a processor's section.
type field struct {
	name string // in the description
	off  uint64
	size uint64 // of the whole array
}

// Fields that are used, and the last one.
var (
	fieldRegs    = field{"env.regs", 0, 16 * 8}
	fieldRIP     = field{"env.eip", 128, 8}
	fieldRFLAGS  = field{"env.eflags", 136, 8}
	fieldFCW     = field{"env.fpuc", 148, 2}
	fieldFSW     = field{"env.fpus_vmstate", 150, 2}
	fieldFTW     = field{"env.fptag_vmstate", 152, 2}
	fieldFormat  = field{"env.fpregs_format_vmstate", 154, 2}
	fieldX87     = field{"env.fpregs", 156, 8 * x87Size}
	fieldSegs    = field{"env.segs", 236, 6 * segmentSize}
	fieldLDT     = field{"env.ldt", 356, segmentSize}
	fieldTR      = field{"env.tr", 376, segmentSize}
	fieldGDT     = field{"env.gdt", 396, segmentSize}
	fieldIDT     = field{"env.idt", 416, segmentSize}
	fieldCR0     = field{"env.cr[0]", 456, 8}
	fieldCR2     = field{"env.cr[2]", 464, 8}
	fieldCR3     = field{"env.cr[3]", 472, 8}
	fieldCR4     = field{"env.cr[4]", 480, 8}
	fieldDR      = field{"env.dr", 488, 8 * 8}
	fieldA20     = field{"env.a20_mask", 552, 4}
	fieldMXCSR   = field{"env.mxcsr", 556, 4}
	fieldXMM     = field{"env.xmm_regs[0]", 560, 16 * 16}
	fieldEFER    = field{"env.efer", 816, 8}
	fieldLSTAR   = field{"env.lstar", 832, 8}
	fieldKernel  = field{"env.kernelgsbase", 856, 8}
	fieldYMMHigh = field{"env.xmm_regs[1]", 1561, 16 * 16}

	cpuFields = []field{
		fieldRegs, fieldRIP, fieldRFLAGS, fieldFCW, fieldFSW, fieldFTW, fieldFormat, fieldX87,
		fieldSegs, fieldLDT, fieldTR, fieldGDT, fieldIDT, fieldCR0, fieldCR2, fieldCR3, fieldCR4,
		fieldDR, fieldA20, fieldMXCSR, fieldXMM, fieldEFER, fieldLSTAR, fieldKernel, fieldYMMHigh,
	}
)

const (
	x87Size     = 8 + 2         // mantissa, sign and exponent
	segmentSize = 4 + 8 + 4 + 4 // selector, base, limit, flags

	// segmentFlags are the bits that the second descriptor doubleword has of
	// attributes; the others are pieces of base and limit, and the processor is
	// free in what it keeps of them. QEMU's monitor shows the same bits.
	segmentFlags = 0x00ffff00

	a20Bit = 1 << 20
)

// cpuState is the body of a processor's section, at least cpuSize bytes.
type cpuState []byte

func (s cpuState) u16(f field) uint16 { return binary.BigEndian.Uint16(s[f.off:]) }
func (s cpuState) u32(f field) uint32 { return binary.BigEndian.Uint32(s[f.off:]) }
func (s cpuState) u64(f field) uint64 { return binary.BigEndian.Uint64(s[f.off:]) }

// array returns element i of field f, which consists of elements of size bytes.
func (s cpuState) array(f field, i, size int) []byte { return s[int(f.off)+i*size:][:size] }

// check looks at fields that can have few values only, since a section without
// a description may be of another layout.
func (s cpuState) check() error {
	if v := s.u16(fieldFormat); v != 0 {
		return fmt.Errorf("x87 registers are in format %d; want 0, 80 bits", v)
	}
	if v := s.u16(fieldFTW); v > 0xff {
		return fmt.Errorf("tag word is %#x; want 8 bits", v)
	}
	if v := s.u32(fieldA20); v|a20Bit != 0xffffffff {
		return fmt.Errorf("mask of address line 20 is %#x", v)
	}
	return nil
}

// registers turns the state of processor cpu into registers. kvm is as in Options.
func (s cpuState) registers(cpu int, kvm bool) phys.Registers {
	r := phys.Registers{
		CPU: cpu,
		RIP: s.u64(fieldRIP), RFLAGS: s.u64(fieldRFLAGS),
		LDT: s.segment(fieldLDT, 0), TR: s.segment(fieldTR, 0),
		GDT: s.table(fieldGDT), IDT: s.table(fieldIDT),
		CR0: s.u64(fieldCR0), CR2: s.u64(fieldCR2), CR3: s.u64(fieldCR3), CR4: s.u64(fieldCR4),
		HasEFER: true, EFER: s.u64(fieldEFER),
		HasKernelGSBase: true, KernelGSBase: s.u64(fieldKernel),
		HasLSTAR: true, LSTAR: s.u64(fieldLSTAR),
		HasDebug: true,
		HasFPU:   true, FPU: s.fpu(kvm),
	}
	// The order of registers and segments in machine code.
	for i, to := range []*uint64{
		&r.RAX, &r.RCX, &r.RDX, &r.RBX, &r.RSP, &r.RBP, &r.RSI, &r.RDI,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
	} {
		*to = binary.BigEndian.Uint64(s.array(fieldRegs, i, 8))
	}
	for i, to := range []*phys.Segment{&r.ES, &r.CS, &r.SS, &r.DS, &r.FS, &r.GS} {
		*to = s.segment(fieldSegs, i)
	}
	for _, i := range []int{0, 1, 2, 3, 6, 7} {
		r.DR[i] = binary.BigEndian.Uint64(s.array(fieldDR, i, 8))
	}
	return r
}

func (s cpuState) segment(f field, i int) phys.Segment {
	b := s.array(f, i, segmentSize)
	return phys.Segment{
		Selector: uint16(binary.BigEndian.Uint32(b)),
		Base:     binary.BigEndian.Uint64(b[4:]),
		Limit:    binary.BigEndian.Uint32(b[12:]),
		Flags:    binary.BigEndian.Uint32(b[16:]) & segmentFlags,
	}
}

func (s cpuState) table(f field) phys.DescriptorTable {
	g := s.segment(f, 0)
	return phys.DescriptorTable{Base: g.Base, Limit: g.Limit}
}

// fpu makes the FPU state whole. TOP, the number of the register that is ST0,
// is in bits 11 to 13 of the status word, where cpu_pre_save puts it. That also
// turns tags around: a bit is set if the register is in use, as in FXSAVE.
func (s cpuState) fpu(kvm bool) phys.FPU {
	f := phys.FPU{
		FCW: s.u16(fieldFCW), FSW: s.u16(fieldFSW), FTW: uint8(s.u16(fieldFTW)),
		MXCSR: s.u32(fieldMXCSR),
	}
	top := int(f.FSW >> 11 & 7)
	if kvm {
		top = 0 // the registers are in the order of the stack already
	}
	for i := range f.ST {
		b := s.array(fieldX87, (top+i)%len(f.ST), x87Size)
		binary.LittleEndian.PutUint64(f.ST[i][:8], binary.BigEndian.Uint64(b))
		binary.LittleEndian.PutUint16(f.ST[i][8:], binary.BigEndian.Uint16(b[8:]))
	}
	for i := range f.XMM {
		b := s.array(fieldXMM, i, 16)
		binary.LittleEndian.PutUint64(f.XMM[i][:8], binary.BigEndian.Uint64(b))
		binary.LittleEndian.PutUint64(f.XMM[i][8:], binary.BigEndian.Uint64(b[8:]))
	}
	return f
}

// cpuList collects processors.
type cpuList struct {
	kvm  bool
	most int
	list []phys.Registers
}

func newCPUList(o Options) *cpuList {
	l := &cpuList{kvm: o.KVM, most: o.MaxCPUs}
	if l.most <= 0 {
		l.most = defaultMaxCPUs
	}
	return l
}

// add takes the section h if it is that of a processor.
func (l *cpuList) add(c *cursor, h header, body []byte) error {
	if h.name != cpuName {
		return nil
	}
	if h.version != cpuVersion {
		return c.errorf(h.at, "section of processor %d has version %d; want %d", h.instance, h.version, cpuVersion)
	}
	if len(body) < cpuSize {
		return c.errorf(h.at, "section of processor %d has %d bytes; want at least %d", h.instance, len(body), cpuSize)
	}
	if len(l.list) == l.most || h.instance >= defaultMaxCPUs {
		return fmt.Errorf("%w: offset %#x: processor %d after %d others; want at most %d", ErrLimit, h.at, h.instance, len(l.list), l.most)
	}
	s := cpuState(body)
	if err := s.check(); err != nil {
		return c.errorf(h.at, "section of processor %d: %s", h.instance, err)
	}
	l.list = append(l.list, s.registers(int(h.instance), l.kvm))
	return nil
}

// finish returns the processors by index.
func (l *cpuList) finish(c *cursor) ([]phys.Registers, error) {
	if len(l.list) == 0 {
		return nil, c.errorf(c.pos, "no section of a processor")
	}
	slices.SortFunc(l.list, func(a, b phys.Registers) int { return cmp.Compare(a.CPU, b.CPU) })
	for i := range l.list[1:] {
		if l.list[i].CPU == l.list[i+1].CPU {
			return nil, c.errorf(c.pos, "processor %d is there twice", l.list[i].CPU)
		}
	}
	return l.list, nil
}
