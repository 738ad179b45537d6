package boot

import (
	_ "embed"
	"fmt"

	"snap/phys"
)

// stubCode is stub.asm.
//
//go:embed stub.bin
var stubCode []byte

// Offsets of what the builder fills in, as in stub.asm.
const (
	stubBase    = 1
	stubTables  = 16
	stubRecords = 24
	stubCopies  = 32
	stubFills   = 40
	stubWaits   = 48
	stubCPUs    = 56
	stubNote    = 68 // size of the note; its physical address is 4 bytes on
	stubCR4     = 60

	tableNext  = 0
	tableCount = 8
	tableFirst = 32
	tableEntry = 32
	tablePer   = (phys.PageSize - tableFirst) / tableEntry

	recordSize   = 1024
	recordCR0    = 512
	recordCR3    = 520
	recordCR4    = 528
	recordEFER   = 536
	recordGSBase = 544
	recordKGS    = 552
	recordFSBase = 560
	recordLSTAR  = 568
	recordRIP    = 576
	recordRSP    = 584
	recordFlags  = 592
	recordBlock  = 600
	recordGDTR   = 608
	recordIDTR   = 624
	recordCS     = 640
	recordSS     = 642
	recordDS     = 644
	recordES     = 646
	recordFS     = 648
	recordGS     = 650
	recordTR     = 652
	recordGPR    = 656
	recordPeriod = 760
	recordDR     = 768
)

// Selectors of Windows' kernel (KGDT64_R0_CODE and _DATA in public symbols).
const (
	kernelCS = 0x10
	kernelSS = 0x18
)

// period is the time between two ticks of a paced guest in ns.
const period = 1_000_000

// Control register bits (Intel SDM volume 3, 2.5). Of what the image asks
// for in CR4, the guest gets what every QEMU's own processor model has.
const (
	cr0Needed  = 0x8001_0023          // PG, WP, NE, MP, PE
	cr4Needed  = 0x620                // PAE, OSFXSR, OSXMMEXCPT
	cr4Allowed = 0x6FF | phys.CR4LA57 // those, VME, PVI, TSD, DE, PSE, MCE, PGE, and 5-level paging of a processor that has it
	eferNeeded = 0xD01                // NXE, LMA, LME, SCE
	flagsIF    = 1 << 9
)

// buildRecords returns the processors' records for the stub.
func buildRecords(t tables, regs []phys.Registers, blocks []block, mode Mode) ([]byte, error) {
	all := make([]byte, len(regs)*recordSize)
	for i := range regs {
		r := &regs[i]
		if err := checkSegments(t, r); err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", i, err)
		}
		b := all[i*recordSize : (i+1)*recordSize]
		putFXSAVE(b, r)
		for _, f := range []struct {
			off   int
			value uint64
		}{
			{recordCR0, r.CR0&^0x6000_000C | cr0Needed},
			{recordCR3, uint64(tableBase(r.CR3))},
			{recordCR4, r.CR4&cr4Allowed | cr4Needed},
			{recordEFER, eferNeeded},
			{recordGSBase, r.GS.Base},
			{recordKGS, r.KernelGSBase},
			{recordFSBase, r.FS.Base},
			{recordLSTAR, r.LSTAR},
			{recordRIP, uint64(blocks[i].entry)},
			{recordRSP, r.RSP},
			{recordFlags, 2},
			{recordBlock, uint64(blocks[i].data)},
		} {
			le.PutUint64(b[f.off:], f.value)
		}
		le.PutUint16(b[recordGDTR:], uint16(r.GDT.Limit))
		le.PutUint64(b[recordGDTR+2:], r.GDT.Base)
		le.PutUint16(b[recordIDTR:], uint16(r.IDT.Limit))
		le.PutUint64(b[recordIDTR+2:], r.IDT.Base)
		cs, ss, rcx, r11 := r.CS.Selector, r.SS.Selector, r.RCX, r.R11
		if r.UserMode() { // the bridge leaves with SYSRET, which takes RIP and RFLAGS from these
			cs, ss, rcx, r11 = kernelCS, kernelSS, uint64(blocks[i].code), flagsIF|2
		} else if mode == Paced {
			le.PutUint32(b[recordPeriod:], period)
		}
		for off, s := range map[int]uint16{
			recordCS: cs, recordSS: ss, recordDS: r.DS.Selector, recordES: r.ES.Selector,
			recordFS: r.FS.Selector, recordGS: r.GS.Selector, recordTR: r.TR.Selector,
		} {
			le.PutUint16(b[off:], s)
		}
		for j, v := range []uint64{r.RBX, r.RBP, r.RSI, r.R8, r.R9, r.R10, r11, r.R12, r.R13, r.R14, r.R15, rcx, r.RDX} {
			le.PutUint64(b[recordGPR+8*j:], v)
		}
		for j, v := range r.DR[:4] {
			le.PutUint64(b[recordDR+8*j:], v)
		}
	}
	return all, nil
}

// Descriptor bits in the high doubleword (Intel SDM volume 3, 3.4.5, 3.5).
const (
	descPresent = 1 << 15
	descDPL     = 3 << 13
	descCode    = 1<<12 | 1<<11
	descLong    = 1 << 21
	descTSS     = 0x9 << 8
	descBusy    = 0x2 << 8
	descType    = 0x1f << 8
)

// checkSegments makes sure that the GDT has what the selectors ask for, which
// would otherwise end in a triple fault, and marks the TSS as available, which
// LTR demands.
func checkSegments(t tables, r *phys.Registers) error {
	code := r.CS.Selector
	if r.UserMode() {
		code = kernelCS
	}
	descriptor := func(sel uint16) (uint32, phys.VirtAddr, error) {
		at := uint32(sel &^ 7)
		if sel&4 != 0 || at+15 > r.GDT.Limit {
			return 0, 0, fmt.Errorf("selector %#x is not in the GDT", sel)
		}
		high := phys.VirtAddr(r.GDT.Base) + phys.VirtAddr(at) + 4
		var d [4]byte
		err := t.read(d[:], high)
		return le.Uint32(d[:]), high, err
	}
	cs, _, err := descriptor(code)
	if err != nil {
		return err
	}
	if cs&descPresent == 0 || cs&descDPL != 0 || cs&descCode != descCode || cs&descLong == 0 {
		return fmt.Errorf("CS %#x: descriptor %#x is not 64-bit kernel code", code, cs)
	}
	tss, at, err := descriptor(r.TR.Selector)
	if err != nil {
		return err
	}
	if tss&descPresent == 0 || (tss&^descBusy)&descType != descTSS {
		return fmt.Errorf("TR %#x: descriptor %#x is not a TSS", r.TR.Selector, tss)
	}
	if err := t.mustWrite(at, 4); err != nil {
		return err
	}
	return t.write(le.AppendUint32(nil, tss&^descBusy), at)
}

// putFXSAVE writes r's FPU state in the form that FXRSTOR takes (Intel SDM
// volume 1, 10.5.1).
func putFXSAVE(b []byte, r *phys.Registers) {
	f := r.FPU
	if !r.HasFPU {
		f.FCW, f.MXCSR = 0x27F, 0x1F80 // as Windows starts threads
	}
	le.PutUint16(b[0:], f.FCW)
	le.PutUint16(b[2:], f.FSW)
	b[4] = f.FTW
	le.PutUint32(b[24:], f.MXCSR&0xFFFF)
	for i := range f.ST {
		copy(b[32+16*i:], f.ST[i][:])
	}
	for i := range f.XMM {
		copy(b[160+16*i:], f.XMM[i][:])
	}
}
