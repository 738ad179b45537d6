package ntlab

// kdbgOf makes the KDBG of a kernel of the tables: the pointers that kernels of its
// age hold, as far as its size goes, and the constants that the row says. A constant
// that the row doesn't say is 0.
func kdbgOf(k *kernelRow, p *profile) kdbgLayout {
	const pteBaseEnd = kdbgPTEBase + 8
	l := kdbgLayout{size: k.kdbgSize, pteBase: k.kdbgSize >= pteBaseEnd}
	from := win10KDBG.pointers
	if k.build < buildWin8 {
		from = ws2003KDBG.pointers
	}
	for _, f := range from {
		if f.off+8 > l.size {
			continue
		}
		switch {
		case f.name == "KiProcessorBlock":
			f.size, f.area = uint32(8*p.processor.maxProcessors), ".data" // of pointers of 8 bytes, or more than it needs
		case f.area != "" && f.area != ".text" && f.area != ".rdata":
			f.area = ".data"
		}
		l.pointers = append(l.pointers, f)
	}
	for _, w := range kdbgWords(k, p) {
		if w.off+2 <= l.size {
			l.words = append(l.words, w)
		}
	}
	return l
}

// kdbgWords are the constants of a KDBG (wdbgexts.h, KDDEBUGGER_DATA64).
func kdbgWords(k *kernelRow, p *profile) []kdbgWord {
	t, e, c, s := &p.thread, &p.process, &p.processor, &p.selectors
	words := []kdbgWord{
		{0x036, 1}, // PaeEnabled
		{0x298, uint16(t.nextProcessor)},
		{0x29a, uint16(t.teb)},
		{0x29c, uint16(t.kernelStack)},
		{0x29e, uint16(t.initialStack)},
		{0x2a0, uint16(t.apcProcess)},
		{0x2a2, uint16(t.state)},
		{0x2a8, uint16(e.size)},
		{0x2aa, uint16(e.peb)},
		{0x2ac, uint16(e.parentID)},
		{0x2ae, uint16(e.directoryTableBase)},
		{0x2b0, uint16(c.sizePRCB)},
		{0x2b4, uint16(k.field("KPRCB_CurrentThread"))},
		{0x2b6, uint16(c.mhz)},
		{0x2b8, uint16(c.mhz - 4)}, // CpuType is before MHz in all
		{0x2ba, uint16(c.vendorString)},
		{0x2bc, uint16(c.stateContext)},
		{0x2be, uint16(c.number)},
		{0x2c0, uint16(t.size)},
		{0x2e0, uint16(c.sizePCR)},
		{0x2e2, s.pcrSelf},
		{0x2e4, 0x20},
		{0x2e6, uint16(c.containedPRCB)},
		{0x2f2, uint16(c.specialRegisters)},
		{0x2f4, s.kernelCode},
		{0x2f6, s.kernelData},
		{0x2fa, s.userCode},
		{0x2fc, s.userData},
		{0x302, s.tss},
		{0x304, s.compatCode}, // Gdt64R3CmCode
		{0x306, s.compatTEB},  // Gdt64R3CmTeb,
		{0x338, uint16(c.contextPointer)},
	}
	if k.build >= buildWin8 {
		words = append(words,
			kdbgWord{0x340, uint16(t.stackLimit)}, kdbgWord{0x344, uint16(t.stackBase)},
			kdbgWord{0x350, uint16(k.field("KPRCB_IdleThread"))})
	}
	return words
}
