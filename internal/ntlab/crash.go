package ntlab

import "snap/phys"

// Crash is what a kernel that shows its blue screen has left of its processors: the
// one that crashed has its context saved by KeBugCheckEx, the others are frozen where
// they were. What they do since is no more than to wait.
type Crash struct {
	BugCheck  [5]uint64 // KiBugCheckData
	Processor int       // Windows' number of the one that crashed
	Contexts  [][]byte  // CONTEXT, by Windows processor number, each for its Processor.Context
}

// Layout of CONTEXT (winnt.h), and what the context of KeBugCheckEx has in the triage
// dump of build 19041: no debug registers, and the selectors of the kernel.
const (
	contextSize      = 0x4D0
	contextFlags     = 0x30
	contextMxCsr     = 0x34
	contextSelectors = 0x38 // CS, DS, ES, FS, GS, SS
	contextEFlags    = 0x44
	contextRax       = 0x78 // Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8 to R15, Rip
	contextFltSave   = 0x100
	contextFltMxCsr  = 0x118

	contextOfCall  = 0x10000F
	contextOfTrap  = 0x10001F
	contextFCW     = 0x27F
	contextMXCSR   = 0x1F80
	crashEFlags    = 0x40286
	frozenEFlags   = 0x246
	frozenInCompat = 0x20 | 3 // CS of a 32-bit program
)

// Crash returns what the kernel would leave of its processors if it showed its blue
// screen now. Which of them crashed, and where the others are, comes from the seed:
// where there are several, it is not the first, and one of the others is in a program.
func (im *Image) Crash(bugCheck [5]uint64) *Crash {
	r, m := stream(im.Config.Seed, 'b'), im.machine()
	n := len(im.Truth.Processors)
	c := &Crash{BugCheck: bugCheck, Contexts: make([][]byte, n)}
	if n > 1 {
		c.Processor = 1 + int(r.below(uint64(n-1)))
	}
	for i := range n {
		general := make([]uint64, 17)
		for k := range general {
			general[k] = r.u64()
		}
		rsp, rip := &general[4], &general[16]
		*rsp = uint64(im.cpus[i].stack) - r.between(0x80, 0x800)*8
		cs, ss := m.kernelCode, m.kernelData
		flags, eflags := uint32(contextOfTrap), uint32(frozenEFlags)
		switch i {
		case c.Processor:
			flags, eflags = contextOfCall, crashEFlags
			*rip = uint64(im.symbols["KeBugCheckEx"])
			general[1], general[2], general[8], general[9] = bugCheck[0], bugCheck[1], bugCheck[2], bugCheck[3]
		case 0:
			// The first is not the one to be shown: it runs a 32-bit program.
			*rip, *rsp = 0x7712_3456, 0x19_F000
			cs, ss = m.programCode, m.programData
		default:
			*rip = uint64(im.symbols["KiIdleLoop"]) + r.below(0x20)
		}
		c.Contexts[i] = m.contextBytes(flags, eflags, cs, ss, general)
	}
	return c
}

func contextBytes(flags, eflags uint32, cs, ss uint16, general []uint64) []byte {
	b := make([]byte, contextSize)
	le.PutUint32(b[contextFlags:], flags)
	le.PutUint32(b[contextMxCsr:], contextMXCSR)
	for k, s := range []uint16{cs, selUserData, selUserData, selUserTEB, selUserData, ss} {
		le.PutUint16(b[contextSelectors+2*k:], s)
	}
	le.PutUint32(b[contextEFlags:], eflags)
	for k, v := range general {
		le.PutUint64(b[contextRax+8*k:], v)
	}
	le.PutUint16(b[contextFltSave:], contextFCW)
	le.PutUint32(b[contextFltMxCsr:], contextMXCSR)
	return b
}

// placeCrash leaves a guest of Config.BugCheck as it shows its blue screen.
func (b *builder) placeCrash() {
	if b.Config.BugCheck == [5]uint64{} {
		return
	}
	c := b.Crash(b.Config.BugCheck)
	for i, v := range c.BugCheck {
		b.putPointer(b.symbols["KiBugCheckData"]+phys.VirtAddr(b.machine().word*i), v)
	}
	for i, context := range c.Contexts {
		b.put(b.Truth.Processors[i].Context, context)
	}
	b.Truth.Crash = c
}
