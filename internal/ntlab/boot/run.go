package boot

import (
	_ "embed"
	"fmt"
	"math/rand/v2"

	"snap/phys"
)

// runCode is run.asm.
//
//go:embed run.bin
var runCode []byte

// Offsets in a run block and in the control page, as in run.asm.
const (
	blockControl     = 0
	blockCPU         = 8
	blockMode        = 16
	blockTable       = 24
	blockLength      = 32
	blockNumber      = 40
	blockHeartbeat   = 48
	blockKUSER       = 56
	blockTime        = 64
	blockDelta       = 72
	blockStep        = 80
	blockAdvert      = 96
	blockEntries     = 104
	blockAdvertPages = 112
	blockLinger      = 128
	blockPages       = 256 // the chain's page addresses

	controlMagic = 0
	controlCPUs  = 16
	controlReady = 24

	codeNMI = 8 // offset of the NMI handler in runCode
)

// stepUnits is how far time goes in a round, in 100 ns: a millisecond, the
// period of the tick.
const stepUnits = 10_000

// stackBytes is what an NMI pushes on the stack it interrupts, alignment
// included (Intel SDM volume 3, 6.14.2).
const stackBytes = 64

// KUSER_SHARED_DATA and the offsets of its times (WDK ntddk.h).
const (
	kuserVA            = phys.VirtAddr(0xFFFFF780_00000000)
	kuserInterruptTime = 0x08
	kuserSystemTime    = 0x14
	kuserSize          = 0x330 // up to the end of TickCount
)

// block is where a processor's code and data lie.
type block struct {
	entry phys.VirtAddr // where the stub leaves to
	code  phys.VirtAddr // what the processor ends up in
	data  phys.VirtAddr
}

// installer writes what the guest runs into an image.
type installer struct {
	tables
	regs    []phys.Registers
	options Options
	spare   phys.VirtAddr // what is left of the kernel's text for code
	end     phys.VirtAddr
	control phys.VirtAddr
	info    *Info
}

// installRun writes each processor's code, run block and chain into the
// image, and the control page that they share.
func installRun(t tables, regs []phys.Registers, o Options) ([]block, *Info, error) {
	spare, size := t.im.Spare()
	in := &installer{tables: t, regs: regs, options: o, spare: spare, end: spare + phys.VirtAddr(size), info: &Info{}}
	if err := in.installControl(); err != nil {
		return nil, nil, err
	}
	blocks := make([]block, len(regs))
	for i := range regs {
		install := in.installKernel
		if regs[i].UserMode() {
			install = in.installUser
		}
		var err error
		if blocks[i], err = install(i); err != nil {
			return nil, nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
	}
	return blocks, in.info, nil
}

// installControl writes the control page.
func (in *installer) installControl() error {
	control, err := in.im.AllocPages(1)
	if err != nil {
		return err
	}
	var c [phys.PageSize]byte
	copy(c[controlMagic:], "SNAPLAB1")
	var kernel uint64
	for i := range in.regs {
		if !in.regs[i].UserMode() {
			kernel++
		}
	}
	le.PutUint64(c[controlCPUs:], kernel)
	if err := in.installOrders(c[:]); err != nil {
		return err
	}
	in.control = control
	for at, offset := range map[*phys.Addr]phys.VirtAddr{
		&in.info.Ready: controlReady, &in.info.Order: controlOrder, &in.info.WentOn: controlWentOn,
	} {
		if *at, _, err = in.translate(control + offset); err != nil {
			return err
		}
	}
	return in.write(c[:], control)
}

// place writes code to the kernel's spare text.
func (in *installer) place(code []byte) (phys.VirtAddr, error) {
	at := in.spare
	in.spare += phys.VirtAddr(len(code)+63) &^ 63
	if in.spare > in.end {
		return 0, fmt.Errorf("no room for %d bytes of code in the kernel", len(code))
	}
	return at, in.write(code, at)
}

// installKernel prepares a processor that runs run.asm in the kernel.
func (in *installer) installKernel(i int) (block, error) {
	code, err := in.place(runCode)
	if err != nil {
		return block{}, err
	}
	if err := setNMIHandler(in.tables, &in.regs[i], code+codeNMI); err != nil {
		return block{}, err
	}
	chain, table, err := buildChain(in.tables, in.im, i, in.options.Seed)
	if err != nil {
		return block{}, err
	}
	data, err := buildBlock(in.tables, in.im, i, in.control, table, in.options)
	if err != nil {
		return block{}, err
	}
	heartbeat, _, err := in.translate(data + blockHeartbeat)
	if err != nil {
		return block{}, err
	}
	in.info.Chains = append(in.info.Chains, chain)
	in.info.VCPUs = append(in.info.VCPUs, in.vcpu(i, code, len(runCode), heartbeat))
	return block{entry: code, code: code, data: data}, nil
}

func (in *installer) vcpu(i int, code phys.VirtAddr, size int, heartbeat phys.Addr) VCPU {
	return VCPU{
		Code: code, CodeEnd: code + phys.VirtAddr(size),
		RSP: in.regs[i].RSP, CR3: tableBase(in.regs[i].CR3), Heartbeat: heartbeat,
	}
}

// buildBlock writes a processor's run block.
func buildBlock(t tables, im Image, cpu int, control phys.VirtAddr, table []byte, o Options) (phys.VirtAddr, error) {
	at, err := im.AllocPages(1)
	if err != nil {
		return 0, err
	}
	var b [phys.PageSize]byte
	le.PutUint64(b[blockControl:], uint64(control))
	le.PutUint64(b[blockCPU:], uint64(cpu))
	le.PutUint64(b[blockMode:], uint64(o.Mode))
	le.PutUint64(b[blockTable:], uint64(at)+blockPages)
	le.PutUint64(b[blockLength:], uint64(len(table)/8))
	le.PutUint64(b[blockStep:], stepUnits)
	copy(b[blockPages:], table)
	if cpu == o.Timekeeper && o.Mode != Idle {
		var k [kuserSize]byte
		if err := t.read(k[:], kuserVA); err != nil {
			return 0, fmt.Errorf("KUSER_SHARED_DATA: %w", err)
		}
		if err := t.mustWrite(kuserVA, kuserSize); err != nil {
			return 0, fmt.Errorf("KUSER_SHARED_DATA: %w", err)
		}
		interrupt := le.Uint64(k[kuserInterruptTime:])
		le.PutUint64(b[blockKUSER:], uint64(kuserVA))
		le.PutUint64(b[blockTime:], interrupt)
		le.PutUint64(b[blockDelta:], le.Uint64(k[kuserSystemTime:])-interrupt)
	}
	if o.Advert != nil && cpu == o.Advert.CPU {
		o.Advert.putBlock(b[:])
	}
	if err := t.mustWrite(at, phys.PageSize); err != nil {
		return 0, err
	}
	return at, t.write(b[:], at)
}

// buildChain allocates a processor's chain and returns it with the table of
// its virtual addresses. Its order has nothing to do with that of addresses,
// so that a reader who goes through memory in order sees numbers of all ages.
func buildChain(t tables, im Image, cpu int, seed uint64) (Chain, []byte, error) {
	c := Chain{ID: cpu}
	first, err := im.AllocPages(ChainPages)
	if err != nil {
		return c, nil, err
	}
	if err := t.mustWrite(first, ChainPages*phys.PageSize); err != nil {
		return c, nil, err
	}
	var table []byte
	r := rand.New(rand.NewPCG(seed, uint64(cpu)))
	for i, n := range r.Perm(ChainPages) {
		v := first + phys.VirtAddr(n)*phys.PageSize
		at, _, err := t.translate(v)
		if err != nil {
			return c, nil, err
		}
		if err := t.write(chainHeader(cpu, i), v); err != nil {
			return c, nil, err
		}
		c.Pages = append(c.Pages, at)
		table = le.AppendUint64(table, uint64(v))
	}
	return c, table, nil
}

// setNMIHandler points gate 2 of a processor's IDT at handler, on the stack
// that was interrupted (gate layout: Intel SDM volume 3, 6.14.1).
func setNMIHandler(t tables, r *phys.Registers, handler phys.VirtAddr) error {
	const nmi, gateSize = 2, 16
	if r.IDT.Limit < (nmi+1)*gateSize-1 {
		return fmt.Errorf("IDT of vCPU %d has a limit of %#x and no NMI gate", r.CPU, r.IDT.Limit)
	}
	var g [gateSize]byte
	le.PutUint16(g[0:], uint16(handler))
	le.PutUint16(g[2:], r.CS.Selector)
	g[5] = 0x8E // present, DPL 0, 64-bit interrupt gate
	le.PutUint16(g[6:], uint16(handler>>16))
	le.PutUint32(g[8:], uint32(handler>>32))
	if err := t.write(g[:], phys.VirtAddr(r.IDT.Base)+nmi*gateSize); err != nil {
		return err
	}
	return t.mustWrite(phys.VirtAddr(r.RSP)-stackBytes, stackBytes)
}
