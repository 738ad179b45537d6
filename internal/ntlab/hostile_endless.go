package ntlab

import (
	"snap/phys"
)

// More than any Windows has, so that whoever reads it has to end before.
const (
	manyModules    = 9000
	manyProcesses  = 70000
	manyProcessors = 2048
)

// endlessAttacks are lists that branch, leave RAM or don't end, and arrays of forged
// entries.
func endlessAttacks() []Attack {
	return []Attack{
		edited("module list branches", "the second module's Flink leads to the fourth, whose Blink leads to the third", Degraded, "the list of modules is broken after 2 modules",
			attack(func(e *edits) { branch(e, e.im.Truth.PsLoadedModuleList) })),
		edited("process list branches", "the second process's Flink leads to the fourth, whose Blink leads to the third", Degraded, "the list of processes is broken after 2 links",
			attack(func(e *edits) { branch(e, e.im.Truth.PsActiveProcessHead) })),
		edited("module list leads into a hole", "the second module's Flink leads to a page that is mapped to the VGA hole", Degraded, "the list of modules is broken after 2 modules",
			attack(func(e *edits) { intoHole(e, e.im.Truth.PsLoadedModuleList, vgaHole) })),
		edited("process list leads to a device", "the second process's Flink leads to a page that is mapped to the local APIC", Degraded, "the list of processes is broken after 2 links",
			attack(func(e *edits) { intoHole(e, e.im.Truth.PsActiveProcessHead, 0xFEE00) })),
		edited("modules without end", "9000 well-formed entries follow the first module", Degraded, "more than 8192 entries",
			attack(func(e *edits) {
				const size = 0x70
				at := e.pages(manyModules*size/phys.PageSize + 1)
				b := make([]byte, manyModules*size)
				for i := range manyModules {
					m := b[i*size:]
					le.PutUint64(m[ldrDLLBase:], uint64(e.im.Truth.KernelBase))
					le.PutUint32(m[ldrSize:], phys.PageSize)
				}
				insert(e, e.im.Truth.PsLoadedModuleList, at, size, b)
			})),
		edited("processes without end", "70000 linked entries follow System, each a part of those before it", Degraded, "more than 65536 entries",
			attack(func(e *edits) {
				const size = 0x10
				at := e.pages(manyProcesses*size/phys.PageSize+2) + phys.PageSize
				insert(e, e.im.Truth.PsActiveProcessHead, at, size, make([]byte, manyProcesses*size))
			})),
		edited("links of System without end", "the KDBG is zeros, and System has links to 8 lists of 60000 entries in place of its own", Refused, "pointers in kernel images and processes",
			attack(manyLinks)),
		edited("thread list loops on itself", "the first link of every process's list of threads is the process", Found, "",
			attack(func(e *edits) {
				for _, p := range e.im.Truth.Processes {
					for off := phys.VirtAddr(0x200); off < 0x380; off += 0x10 {
						if e.get64(p.EPROCESS+off) == p.EPROCESS+off { // an empty list's head
							e.put64(p.EPROCESS+off, uint64(p.EPROCESS))
						}
					}
					e.put64(p.EPROCESS+0x30, uint64(p.EPROCESS))
				}
			})),
		edited("processors without end", "KiProcessorBlock has 2048 well-formed KPRCBs, each a part of those before it", Warned, "2048 processors are sound, but the guest says it has 4",
			attack(manyKPRCBs)),
		edited("processors that are null", "KiProcessorBlock is empty, and KUSER_SHARED_DATA says that there are 2048 processors", Degraded, "KiProcessorBlock can't be read",
			attack(func(e *edits) {
				e.put32(kuserKernel+kuserProcessors, manyProcessors)
				e.put(e.symbol("KiProcessorBlock"), make([]byte, 8*16))
			})),
		edited("processors that are none", "KiProcessorBlock has as many pointers to KUSER_SHARED_DATA as KUSER_SHARED_DATA says that there are, behind the true ones", Warned, "more processors in KiProcessorBlock are not sound",
			attack(func(e *edits) {
				e.put32(kuserKernel+kuserProcessors, manyProcessors)
				n := len(e.im.Truth.Processors)
				b := make([]byte, 0, 8*manyProcessors)
				for range manyProcessors - n {
					b = le.AppendUint64(b, uint64(kuserKernel))
				}
				e.put(e.symbol("KiProcessorBlock")+phys.VirtAddr(8*n), b)
			})),
	}
}

// manyLinks takes the KDBG away and gives the EPROCESS of System its process id and
// links again and again, each the head of a list of its own that ends nowhere.
func manyLinks(e *edits) {
	p, err := findProfile(e.im.Config.Profile)
	if err != nil {
		e.err = err
		return
	}
	const lists, entries, size = 8, 60000, 0x10
	system := e.im.Truth.SystemProcess
	e.put(e.im.Truth.KDBG, make([]byte, len(e.im.Truth.KDBGPlain)))
	e.put64(system+phys.VirtAddr(p.process.uniqueProcessID), 0)
	for i := range phys.VirtAddr(lists) {
		id := system + 0x80 + 24*i
		at := e.pages(entries*size/phys.PageSize + 1)
		b := make([]byte, entries*size)
		for j := range phys.VirtAddr(entries) {
			back := at + size*(j-1)
			if j == 0 {
				back = id + 8
			}
			le.PutUint64(b[size*j:], uint64(at+size*(j+1)))
			le.PutUint64(b[size*j+8:], uint64(back))
		}
		e.put(at, b)
		e.put64(id, 4)
		e.put64(id+8, uint64(at))
		e.put64(id+16, uint64(system))
	}
}

// branch makes the list's second entry lead to the fourth, which leads back to the
// third.
func branch(e *edits, head phys.VirtAddr) {
	second := e.get64(e.get64(head))
	e.put64(second, uint64(e.get64(e.get64(second))))
}

// intoHole makes the list's second entry lead to a page at pfn, which is no RAM.
func intoHole(e *edits, head phys.VirtAddr, pfn phys.PFN) {
	at := e.pages(1)
	e.entry(at, 1, uint64(pfn.Addr())|kernelData)
	e.put64(e.get64(e.get64(head)), uint64(at))
}

// insert puts entries of the given size, which are all of b, after the first entry of
// a list. They are stored at at.
func insert(e *edits, head, at phys.VirtAddr, size int, b []byte) {
	first := e.get64(head)
	next := e.get64(first)
	n := len(b) / size
	entry := func(i int) uint64 { return uint64(at) + uint64(i*size) }
	for i := range n {
		forward, back := entry(i+1), entry(i-1)
		if i == 0 {
			back = uint64(first)
		}
		if i == n-1 {
			forward = uint64(next)
		}
		le.PutUint64(b[i*size:], forward)
		le.PutUint64(b[i*size+8:], back)
	}
	e.put(at, b)
	e.put64(first, entry(0))
	e.put64(next+8, entry(n-1))
}

// manyKPRCBs fills KiProcessorBlock, behind the true processors, with KPRCBs that lie
// 64 bytes apart: what a reader looks at of one is at no multiple of 64 from what it
// looks at of another.
func manyKPRCBs(e *edits) {
	const apart = 0x40
	p, err := findProfile(e.im.Config.Profile)
	if err != nil {
		e.err = err
		return
	}
	l := &p.processor
	true0 := e.im.Truth.Processors[0].Context
	b := make([]byte, manyProcessors*apart+int(l.sizePCR)+phys.PageSize)
	at := e.pages(len(b)>>phys.PageShift + 1)
	block := make([]byte, 0, 8*manyProcessors)
	for i := len(e.im.Truth.Processors); i < min(manyProcessors, l.maxProcessors); i++ {
		pcr := b[i*apart:]
		le.PutUint64(pcr[pcrSelf:], uint64(at)+uint64(i*apart))
		prcb := pcr[l.containedPRCB:]
		if l.numberSize == 1 {
			prcb[l.number] = byte(i)
		} else {
			le.PutUint32(prcb[l.number:], uint32(i))
		}
		if l.contextPointer != 0 {
			le.PutUint64(prcb[l.contextPointer:], uint64(true0))
		}
		block = le.AppendUint64(block, uint64(at)+uint64(i*apart)+uint64(l.containedPRCB))
	}
	e.put(at, b)
	e.put(e.symbol("KiProcessorBlock")+phys.VirtAddr(8*len(e.im.Truth.Processors)), block)
}
