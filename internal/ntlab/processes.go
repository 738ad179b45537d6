package ntlab

import (
	"snap/phys"
)

// process is a process in the making.
type process struct {
	Process
	dtb     phys.Addr // same as DirectoryTableBase
	userDTB phys.Addr // with KVA shadow, else 0
	peb     phys.VirtAddr
	code    phys.VirtAddr // a page of the program, executable
	stacks  phys.VirtAddr // user stacks, one page each for every processor
	tebs    phys.VirtAddr // TEBs, one page each for every processor
}

// Low bits of CR3 under KVA shadow: process-context identifiers of the kernel
// and the user half. A public kernel dump's header has the former
// (0x6D4002).
const (
	pcidKernel = 2
	pcidUser   = 1
)

// userDTBNone marks a process that runs without a shadow, as privileged
// ones do.
const userDTBNone = 1

// placeProcesses makes the EPROCESS list. Every process but System has a user
// half; all share the system's.
func (b *builder) placeProcesses() {
	r := stream(b.Config.Seed, 'e')
	pid := uint64(4)
	var links []phys.VirtAddr
	for i, name := range b.processNames() {
		p := &process{Process: Process{Name: name, PID: pid}}
		if i == 0 {
			p.dtb = b.Truth.DirectoryTableBase
		} else {
			p.dtb = must(b.alloc.page()).Addr()
			if b.tables.row {
				p.dtb = b.placeRow(p.dtb.PFN(), r)
			}
			if name != secureSystem {
				b.placeUserHalf(p, r)
			}
		}
		if b.Config.KPTI && name != "smss.exe" {
			p.userDTB = must(b.alloc.page()).Addr()
			if b.tables.row {
				p.userDTB = b.placeRow(p.userDTB.PFN(), r)
			}
		}
		p.DirectoryTableBase = p.dtb
		p.EPROCESS = b.block(&b.pool, "Proc", uint64(b.p.process.size))
		b.placeEPROCESS(p, r)
		links = append(links, p.EPROCESS+phys.VirtAddr(b.p.process.links))
		b.procs = append(b.procs, p)
		pid += 4 * r.between(1, 120)
	}
	b.list(b.symbols["PsActiveProcessHead"], links...)
	b.Truth.SystemProcess = b.procs[0].EPROCESS
	b.putPointer(b.symbols["PsInitialSystemProcess"], uint64(b.Truth.SystemProcess))
	for _, p := range b.procs {
		b.Truth.Processes = append(b.Truth.Processes, p.Process)
	}
	if b.Config.KPTI {
		b.machine().placeShadows(b)
	}
}

// Processes of a Windows with a secure kernel: that which stands for it, which the
// kernel makes without a program, so that it has neither user memory nor a PEB, and
// Credential Guard's (Microsoft Learn, "Isolated User Mode (IUM) Processes").
const (
	secureSystem = "Secure System"
	isolatedLSA  = "LsaIso.exe"
)

func (b *builder) processNames() []string {
	if !b.Config.VBS {
		return b.p.processes
	}
	names := []string{b.p.processes[0], secureSystem}
	for _, name := range b.p.processes[1:] {
		if name == "lsass.exe" {
			names = append(names, isolatedLSA)
		}
		names = append(names, name)
	}
	return names
}

func (b *builder) placeEPROCESS(p *process, r *rng) {
	l, e := &b.p.process, p.EPROCESS
	at := func(off uint32) phys.VirtAddr { return e + phys.VirtAddr(off) }
	b.put(e, []byte{l.objectType, 0, byte(l.directoryTableBase)})
	b.list(e + 8)
	b.list(e + phys.VirtAddr(8+2*b.machine().word)) // ProfileListHead
	b.list(at(l.threadListHead))
	dtb := uint64(p.dtb)
	if b.Config.KPTI {
		dtb |= b.machine().pcidKernel
		user := uint64(p.userDTB) | b.machine().pcidUser
		if p.userDTB == 0 {
			user = userDTBNone
		}
		b.putPointer(at(l.userDirectoryTable), user)
	}
	b.putPointer(at(l.directoryTableBase), dtb)
	b.putPointer(at(l.uniqueProcessID), p.PID)
	b.putPointer(at(l.peb), uint64(p.peb))
	if p.PID != 4 {
		b.putPointer(at(l.parentID), 4)
	}
	b.put64(at(l.createTime), b.Truth.SystemTime-b.Truth.InterruptTime+r.below(1e9))
	b.put(at(l.imageFileName), append([]byte(p.Name), make([]byte, 16-len(p.Name))...))
}

// placeUserHalf maps a program, its stack, PEB and TEBs, shared data, a large
// page, and pages that are not there.
func (b *builder) placeUserHalf(p *process, r *rng) {
	base := phys.VirtAddr(0x1000000)
	high := phys.VirtAddr(0x7ff00000)
	if !b.p.fixedLayout {
		base = 0x7ff600000000 + phys.VirtAddr(r.below(0x10000)<<16)
		high = phys.VirtAddr(r.between(0x10, 0xff) << 32)
	}
	check(b.MapPage(p.dtb, kuserUser, b.kuser, 1, userRead))
	age := r.between(0, 7) << 52 // Windows keeps working-set ages in ignored bits
	if b.machine().word == 4 {
		age = 0
	}
	check(b.mapFresh(p.dtb, base, 1, userRead|age))
	check(b.mapFresh(p.dtb, base+0x1000, 4, userCode|age))
	pe := peImage{
		machine: b.machine(), base: base, size: 0x5000, entry: 0x1000, timestamp: uint32(r.u64()),
		sections: []section{{".text", 0x1000, 0x4000, scnPaged}},
	}
	check(b.WriteVirtIn(p.dtb, base, pe.headers()))
	p.code = base + 0x1000
	code := make([]byte, phys.PageSize)
	r.fill(code)
	check(b.WriteVirtIn(p.dtb, p.code, code))

	p.stacks = high - 0x10000000
	check(b.mapFresh(p.dtb, p.stacks, uint64(b.Config.CPUs), userData))
	p.peb = high
	check(b.mapFresh(p.dtb, p.peb, 1, userData))
	p.tebs = high + phys.PageSize
	for i := range b.Config.CPUs {
		teb := p.tebs + phys.VirtAddr(i<<phys.PageShift)
		check(b.mapFresh(p.dtb, teb, 1, userData))
		var self [8]byte
		m := b.machine()
		le.PutUint64(self[:], uint64(teb))
		check(b.WriteVirtIn(p.dtb, teb+m.tebSelf, self[:m.word])) // NT_TIB.Self
		le.PutUint64(self[:], uint64(p.peb))
		check(b.WriteVirtIn(p.dtb, teb+m.tebPEB, self[:m.word])) // ProcessEnvironmentBlock
	}
	// Paged out, and demand-zero: neither is memory.
	absent := high - 0x20000000
	check(b.MapPage(p.dtb, absent, 0, 1, r.below(1<<20)<<32|0x80))
	check(b.MapPage(p.dtb, absent+phys.PageSize, 0, 1, 0x80))
}

// placeShadows gives each process the user half of its tables and of the
// kernel only what a transition needs: KVASCODE, the processors' descriptor
// tables, what a swapgs leads to, and KUSER_SHARED_DATA.
func (b *builder) placeShadows() {
	shadow := b.mapShadow()
	for _, p := range b.procs {
		if p.userDTB == 0 {
			continue
		}
		for i := uint64(0); i < 256; i++ {
			b.setEntry(p.userDTB.PFN(), i, b.entry(p.dtb.PFN(), i))
		}
		for i := uint64(256); i < 512 && p.userDTB != shadow; i++ {
			b.setEntry(p.userDTB.PFN(), i, b.entry(shadow.PFN(), i))
		}
	}
}

// mapShadow makes the kernel half of the System process's user tables, and returns their
// top.
func (b *builder) mapShadow() phys.Addr {
	m, shadow := b.machine(), b.procs[0].userDTB
	b.mapShared(shadow, m.kuser, 1)
	kva := b.p.section("KVASCODE")
	b.mapShared(shadow, b.lay.kernel+phys.VirtAddr(kva.rva), uint64(kva.size)>>phys.PageShift)
	for i, p := range b.Truth.Processors {
		b.mapShared(shadow, b.cpus[i].idt, blockPages)
		b.mapShared(shadow, p.KPCR, 1)
		field := p.KPRCB + phys.VirtAddr(b.p.processor.kernelDTB)
		b.mapShared(shadow, field, 1)
		b.putPointer(field, uint64(b.Truth.DirectoryTableBase)|m.pcidKernel)
	}
	return shadow
}

// mapShared maps n pages of the system's at the same address in another root.
func (b *builder) mapShared(root phys.Addr, va phys.VirtAddr, n uint64) {
	for i := range phys.VirtAddr(n) {
		page := va.Page() + i<<phys.PageShift
		at, ok := b.Translate(page)
		if !ok {
			panic("ntlab: internal error: shared page is not mapped")
		}
		flags := uint64(kernelData)
		if b.hasCode(uint32(page-b.lay.kernel), 1) && page >= b.lay.kernel && page < b.lay.kernel+phys.VirtAddr(b.p.sizeOfImage) {
			flags = kernelCode
		}
		check(b.MapPage(root, page, at.PFN(), 1, flags&^pteG))
	}
}

const stackPages = 6

// placeThreads gives each processor an idle thread and the thread that runs.
func (b *builder) placeThreads() {
	r := stream(b.Config.Seed, 't')
	for i := range b.cpus {
		c, prcb := &b.cpus[i], b.Truth.Processors[i].KPRCB
		c.process = b.procs[0]
		if b.Config.UserMode {
			c.process = b.procs[1+r.below(uint64(len(b.procs)-1))]
			for c.process.code == 0 {
				c.process = b.procs[1+r.below(uint64(len(b.procs)-1))]
			}
			if b.Config.KPTI {
				for c.process.userDTB == 0 || c.process.code == 0 {
					c.process = b.procs[1+r.below(uint64(len(b.procs)-1))]
				}
			}
			c.teb = c.process.tebs + phys.VirtAddr(i<<phys.PageShift)
		}
		if i == 0 {
			c.idle = b.symbols["KiInitialThread"]
		} else {
			c.idle = b.block(&b.pool, "Thre", uint64(b.p.thread.size))
		}
		b.placeThread(c.idle, b.procs[0], 0)
		c.current = b.block(&b.pool, "Thre", uint64(b.p.thread.size))
		c.stack = b.placeThread(c.current, c.process, c.teb)
		m := b.machine()
		b.putPointer(prcb+m.prcbCurrentThread, uint64(c.current))
		b.putPointer(prcb+m.prcbIdleThread, uint64(c.idle))
		if m.word == 8 {
			b.put64(prcb+prcbRSPBase, uint64(c.stack-0x370))
		}
		b.putPointer(b.Truth.Processors[i].KPCR+m.pcrUsedSelf, uint64(c.teb))
	}
	if b.Config.KPTI && b.Config.UserMode {
		b.Truth.UserDirectoryTable = b.cpus[0].process.userDTB
	}
}

// placeThread fills in an ETHREAD with a kernel stack of its own and returns
// the stack's base.
func (b *builder) placeThread(t phys.VirtAddr, p *process, teb phys.VirtAddr) phys.VirtAddr {
	l := &b.p.thread
	limit := must(b.ptes.pages(b.Image, stackPages))
	base := limit + stackPages<<phys.PageShift
	b.put(t, []byte{6, 0, byte(l.initialStack)}) // ThreadObject
	b.list(t + 8)
	b.putPointer(t+phys.VirtAddr(l.initialStack), uint64(base-0x370))
	b.putPointer(t+phys.VirtAddr(l.stackLimit), uint64(limit))
	b.putPointer(t+phys.VirtAddr(l.stackBase), uint64(base))
	b.putPointer(t+phys.VirtAddr(l.kernelStack), uint64(base-0x1020))
	b.putPointer(t+phys.VirtAddr(l.apcProcess), uint64(p.EPROCESS))
	b.putPointer(t+phys.VirtAddr(l.teb), uint64(teb))
	b.put(t+phys.VirtAddr(l.state), []byte{2}) // Running
	return base
}
