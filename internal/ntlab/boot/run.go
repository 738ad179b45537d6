package boot

import (
	_ "embed"
	"fmt"
	"math/rand/v2"

	"snap/guest/phys"
)

// runCode is run.asm.
//
//go:embed run.bin
var runCode []byte

// Offsets in a run block and in the control page, as in run.asm.
const (
	blockControl   = 0
	blockCPU       = 8
	blockMode      = 16
	blockTable     = 24
	blockLength    = 32
	blockNumber    = 40
	blockHeartbeat = 48
	blockKUSER     = 56
	blockTime      = 64
	blockDelta     = 72
	blockStep      = 80
	blockPages     = 256 // the chain's page addresses

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
	code phys.VirtAddr
	data phys.VirtAddr
}

// installRun writes each processor's code, run block and chain into the
// image, and the control page that they share.
func installRun(t tables, im Image, regs []phys.Registers, o Options) ([]block, *Info, error) {
	code, size := im.Spare()
	stride := (uint64(len(runCode)) + 63) &^ 63
	if need := stride * uint64(len(regs)); need > size {
		return nil, nil, fmt.Errorf("code of %d processors takes %d bytes and the kernel has %d to spare", len(regs), need, size)
	}
	control, err := im.AllocPages(1)
	if err != nil {
		return nil, nil, err
	}
	var c [phys.PageSize]byte
	copy(c[controlMagic:], "SNAPLAB1")
	le.PutUint64(c[controlCPUs:], uint64(len(regs)))
	if err := t.write(c[:], control); err != nil {
		return nil, nil, err
	}
	ready, _, err := t.translate(control + controlReady)
	if err != nil {
		return nil, nil, err
	}
	info := &Info{Ready: ready}
	blocks := make([]block, len(regs))
	for i := range regs {
		b := block{code: code + phys.VirtAddr(uint64(i)*stride)}
		if err := t.write(runCode, b.code); err != nil {
			return nil, nil, err
		}
		if err := setNMIHandler(t, &regs[i], b.code+codeNMI); err != nil {
			return nil, nil, err
		}
		chain, table, err := buildChain(t, im, i, o.Seed)
		if err != nil {
			return nil, nil, err
		}
		if b.data, err = buildBlock(t, im, i, control, table, o); err != nil {
			return nil, nil, err
		}
		heartbeat, _, err := t.translate(b.data + blockHeartbeat)
		if err != nil {
			return nil, nil, err
		}
		blocks[i] = b
		info.Chains = append(info.Chains, chain)
		info.VCPUs = append(info.VCPUs, VCPU{
			Code: b.code, CodeEnd: b.code + phys.VirtAddr(len(runCode)),
			RSP: regs[i].RSP, CR3: tableBase(regs[i].CR3), Heartbeat: heartbeat,
		})
	}
	return blocks, info, nil
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
