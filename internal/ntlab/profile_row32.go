package ntlab

import "fmt"

// maxProcessors32 is MAXIMUM_PROCESSORS of 32-bit kernels (ntddk.h).
const maxProcessors32 = 32

// narrow makes a profile that of a 32-bit Windows, in what the tables don't say.
func (p *profile) narrow() {
	const (
		pcrData     = 0x120 // KPCR.PrcbData, the rest of a KPCR
		contextSize = 0x2CC // what is before the special registers in ProcessorState
		apcProcess  = 0x10  // KAPC_STATE.Process
	)
	k := p.row
	p.buildLab = fmt.Sprintf("%d.1.x86fre.lab", k.build)
	p.userLimit, p.systemStart = 0x80000000, 0x80000000
	p.largePages, p.lowStub, p.fixedLayout = false, false, true
	p.encrypts = false // no 32-bit kernel is known to do so (volatility's win8_kdbg.py)
	c := &p.processor
	c.containedPRCB = pcrData
	c.stateContext = k.field("KPRCB_ProcessorState")
	c.specialRegisters = c.stateContext + contextSize
	c.maxProcessors = maxProcessors32
	c.bootPCRInImage = k.build >= buildVista
	if c.kernelDTB != 0 {
		// Where KPROCESS has UserDirectoryTableBase the tables don't say: at its end.
		p.process.userDirectoryTable = k.field("KPROCESS_size") - 4
	}
	p.thread.apcProcess = k.field("KTHREAD_ApcState") + apcProcess
	p.selectors = kdbgSelectors{
		kernelCode: sel32KernelCode, kernelData: sel32KernelData, userCode: sel32UserCode, userData: sel32UserData,
		tss: sel32TSS, pcrSelf: 0x1C,
	}
}
