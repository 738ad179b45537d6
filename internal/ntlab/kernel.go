package ntlab

import (
	"fmt"
	"slices"

	"snap/phys"
)

// spareSize is how much of .text the builder leaves to code of a caller's own.
const spareSize = 32 << 10

// kernelVariables are the variables that no KDBG field names, and their sizes.
var kernelVariables = []kdbgPointer{
	{name: "KdpDebuggerDataListHead", size: 16, area: ".data"},
	{name: "KdVersionBlock", size: 0x28, area: ".data"},
	{name: "KiWaitNever", size: 8, area: ".data"},
	{name: "KiWaitAlways", size: 8, area: ".data"},
	{name: "KdpDataBlockEncoded", size: 1, area: ".data"},
	{name: "PsInitialSystemProcess", size: 8, area: ".data"},
	{name: "NtBuildNumber", size: 4, area: ".data"},
	{name: "KeNumberProcessors", size: 4, area: ".data"},
	{name: "KeBugCheckReasonCallbackListHead", size: 16, area: ".data"},
	{name: "KeBugCheckAddRemovePagesCallbackListHead", size: 16, area: ".data"},
	{name: "KiInitialThread", size: 0xA00, area: ".data"},
	{name: "KiInitialProcess", size: 0xC00, area: ".data"},
	{name: "PsIdleProcess", size: 8, area: ".data"},
	{name: "KdDebuggerEnabled", size: 1, area: ".data"},
	{name: "KdDebuggerNotPresent", size: 1, area: ".data"},
	{name: "InitSafeBootMode", size: 4, area: ".data"},
	{name: "PsProcessType", size: 8, area: ".data"},
	{name: "PsThreadType", size: 8, area: ".data"},
	{name: "IoFileObjectType", size: 8, area: ".data"},
	{name: "ExEventObjectType", size: 8, area: ".data"},
}

// exportedData are the variables above, and of the KDBG, that every kernel exports.
var exportedData = []string{
	"PsInitialSystemProcess", "PsLoadedModuleList", "NtBuildNumber", "KdDebuggerEnabled",
	"KdDebuggerNotPresent", "InitSafeBootMode", "PsProcessType", "PsThreadType", "IoFileObjectType",
	"ExEventObjectType", "MmHighestUserAddress", "MmSystemRangeStart", "MmUserProbeAddress",
}

// exportedRoutines are routines that every kernel here exports.
var exportedRoutines = []string{
	"DbgPrint", "DbgBreakPointWithStatus", "ExAllocatePoolWithTag", "ExFreePoolWithTag", "ExInitializeResourceLite",
	"IoCreateDevice", "IoDeleteDevice", "IofCallDriver", "IofCompleteRequest", "IoAllocateIrp", "IoFreeIrp",
	"IoGetCurrentProcess", "KeBugCheck", "KeBugCheckEx", "KeDelayExecutionThread", "KeGetCurrentThread",
	"KeInitializeEvent", "KeInitializeSpinLock", "KeInsertQueueDpc", "KeQueryInterruptTime", "KeQuerySystemTime",
	"KeRegisterBugCheckCallback", "KeRegisterBugCheckReasonCallback", "KeDeregisterBugCheckReasonCallback",
	"KeSetEvent", "KeWaitForSingleObject", "KfRaiseIrql", "MmAllocateContiguousMemory", "MmFreeContiguousMemory",
	"MmGetPhysicalAddress", "MmGetPhysicalMemoryRanges", "MmGetSystemRoutineAddress", "MmIsAddressValid",
	"MmMapIoSpace", "MmMapLockedPagesSpecifyCache", "MmProbeAndLockPages", "MmUnlockPages", "NtClose",
	"NtCreateFile", "NtOpenProcess", "NtQuerySystemInformation", "NtReadFile", "NtWriteFile", "ObfDereferenceObject",
	"ObReferenceObjectByHandle", "PsCreateSystemThread", "PsGetCurrentProcessId", "PsGetVersion",
	"PsLookupProcessByProcessId", "PsSetCreateProcessNotifyRoutine", "PsTerminateSystemThread",
	"RtlCopyUnicodeString", "RtlInitUnicodeString", "RtlCompareMemory", "ZwClose", "ZwOpenFile", "ZwQueryValueKey",
	"memcpy", "memset", "wcslen",
}

// trapRoutines go to KVASCODE under KVA shadow (with the suffix Shadow), else
// to .text.
var trapRoutines = []string{"KiSystemCall64", "KiSystemCall32", "KiDivideErrorFault", "KiIsrThunk"}

// placeKernel maps and writes the kernel image and all of its variables.
func (b *builder) placeKernel() {
	r := stream(b.Config.Seed, 'i')
	b.Truth.Build = b.p.build
	b.Truth.KernelBase, b.Truth.KernelSize = b.lay.kernel, b.p.sizeOfImage
	kdbgRVA, straddles := b.chooseKDBG(r)
	b.mapKernel(r, straddles)

	text := b.p.section(".text")
	b.spare = b.lay.kernel + phys.VirtAddr(text.rva+text.size-spareSize)
	b.symbols["KdDebuggerDataBlock"] = b.lay.kernel + phys.VirtAddr(kdbgRVA)
	b.placeVariables(r, kdbgRVA)
	exports := b.placeRoutines(r)
	for _, n := range slices.Concat(exportedData, b.p.dataExports) {
		exports[n] = uint32(b.symbols[n] - b.lay.kernel)
	}
	file, pdb := b.kernelNames()
	pe := &b.kernel
	*pe = peImage{
		name: file, base: b.lay.kernel, size: b.p.sizeOfImage, sections: b.p.sections,
		entry: uint32(b.symbols["KiSystemStartup"] - b.lay.kernel), timestamp: uint32(r.u64()),
		exportRVA: b.p.section(".edata").rva, exports: exports,
		debugRVA: b.p.section(".rdata").rva + uint32(r.below(0x400))*0x10, pdb: pdb, age: 1,
		osMajor: uint16(b.p.major), osMinor: uint16(b.p.minor),
	}
	r.fill(pe.guid[:])
	b.identify(pe)
	b.placePE(pe, r)
	b.setVariables()
}

// identify gives the image what symbol servers know its kernel by, where that is a
// real one. Of the images for 5-level paging the tables have no symbols.
func (b *builder) identify(pe *peImage) {
	k := b.p.row
	if k == nil || b.Config.LA57 {
		return
	}
	if k.timestamp != 0 {
		pe.timestamp = k.timestamp
	}
	if k.pdb != "" {
		var err error
		pe.guid, pe.age, err = k.guid()
		check(err)
	}
}

// chooseKDBG picks the RVA of the KDBG in .data: within a page, or straddling
// two where the configuration or the seed says so.
func (b *builder) chooseKDBG(r *rng) (rva uint32, straddles bool) {
	size := uint64(b.p.kdbg.size)
	if rva, ok := b.p.rva("KdDebuggerDataBlock"); ok {
		return rva, false
	}
	page := b.p.section(".data").rva + uint32(r.between(0, 7))<<phys.PageShift
	straddles = r.below(4) == 0 || b.Config.StraddleKDBG
	if !straddles {
		return page + uint32(r.below((phys.PageSize-size)/kdbgAlignment+1)*kdbgAlignment), false
	}
	before := r.between(1, size/kdbgAlignment-1) * kdbgAlignment
	return page + phys.PageSize - uint32(before), true
}

// mapKernel maps the image: by 2 MiB pages where the generation does so, but
// by scattered 4 KiB pages where a 2 MiB piece holds what needs protections
// of its own, which here depends on the seed.
func (b *builder) mapKernel(r *rng, splitData bool) {
	const large = largePages << phys.PageShift
	root := b.Truth.DirectoryTableBase
	data := b.p.section(".data").rva / large
	splitData = splitData || r.coin()
	for at := uint32(0); at < b.p.sizeOfImage; at += large {
		va := b.lay.kernel + phys.VirtAddr(at)
		if b.largePages() && (!splitData || at/large != data) {
			flags := uint64(kernelAll)
			if !b.hasCode(at, large) {
				flags |= pteNX
			}
			check(b.MapPage(root, va, b.block2M(), 2, flags))
			continue
		}
		for off := at; off < min(at+large, b.p.sizeOfImage); off += phys.PageSize {
			check(b.mapFresh(root, b.lay.kernel+phys.VirtAddr(off), 1, b.pageFlags(off)))
		}
	}
}

func (b *builder) hasCode(rva, size uint32) bool {
	return slices.ContainsFunc(b.p.sections, func(s section) bool {
		return s.flags&0x20000000 != 0 && s.rva < rva+size && rva < s.rva+s.size
	})
}

// pageFlags returns the protection of a 4 KiB page of the kernel.
func (b *builder) pageFlags(rva uint32) uint64 {
	for _, s := range b.p.sections {
		if rva >= s.rva && rva < s.rva+s.size {
			switch {
			case s.flags&0x80000000 != 0:
				return kernelData
			case s.flags&0x20000000 != 0:
				return kernelCode
			}
		}
	}
	return kernelRead
}

// placeVariables gives each variable an address in its section, in an order
// and with gaps that the seed decides.
func (b *builder) placeVariables(r *rng, kdbgRVA uint32) {
	if b.p.row != nil {
		b.placeRowVariables(r, kdbgRVA)
		return
	}
	vars := slices.Clone(kernelVariables)
	for _, f := range b.p.kdbg.pointers {
		if f.size > 0 {
			vars = append(vars, f)
		}
	}
	r.shuffle(len(vars), func(i, j int) { vars[i], vars[j] = vars[j], vars[i] })
	next := map[string]uint32{".data": (kdbgRVA + b.p.kdbg.size + 0xfff) &^ 0xfff}
	end := func(s section) uint32 { return s.rva + s.size }
	if b.p.processor.bootPCRInImage {
		data := b.p.section(".data")
		pcr := (end(data) - b.p.processor.sizePCR) &^ 0xfff
		b.symbols["KiInitialPCR"] = b.lay.kernel + phys.VirtAddr(pcr)
		end = func(s section) uint32 {
			if s.name == ".data" {
				return pcr
			}
			return s.rva + s.size
		}
	}
	for _, v := range vars {
		s := b.p.section(v.area)
		at, ok := next[v.area]
		if !ok {
			at = s.rva + uint32(r.below(16))*0x80
		}
		if v.area != ".rdata" { // the three addresses there are neighbours
			at += uint32(r.below(24)) * 0x10
		} else if !ok {
			at = s.rva + s.size/2
		}
		align := uint32(8)
		if v.size >= 16 {
			align = 16
		}
		at = (at + align - 1) &^ (align - 1)
		if at+v.size > end(s) {
			check(fmt.Errorf("section %s is full at %s", v.area, v.name))
		}
		va := b.lay.kernel + phys.VirtAddr(at)
		b.symbols[v.name] = va
		next[v.area] = at + v.size
		if isListHead(v) {
			b.list(va)
		}
	}
	if buf, ok := b.symbols["KdPrintDefaultCircularBuffer"]; ok {
		b.symbols["KdPrintDefaultCircularBufferEnd"] = buf + 0x1000
	}
}

func isListHead(v kdbgPointer) bool {
	switch v.name {
	case "PsLoadedModuleList", "PsActiveProcessHead", "ExpSystemResourcesList", "KeBugCheckCallbackListHead",
		"IopErrorLogListHead", "KdpDebuggerDataListHead", "KeBugCheckReasonCallbackListHead",
		"KeBugCheckAddRemovePagesCallbackListHead", "MmLoadedUserImageList":
		return true
	}
	return false
}

// placeRoutines gives each routine an address and the first bytes of a
// function, and returns the exported ones' RVAs.
func (b *builder) placeRoutines(r *rng) map[string]uint32 {
	text := b.p.section(".text")
	room := uint64(text.size-spareSize-0x2000) / 0x20
	taken := map[uint64]bool{}
	for _, n := range codeSymbols {
		if rva, ok := b.p.rva(n); ok {
			taken[uint64(rva)/0x20], taken[uint64(rva)/0x20+1] = true, true
		}
	}
	place := func(name string, base phys.VirtAddr, room uint64) uint32 {
		slotOf := func() uint64 { return uint64(base-b.lay.kernel)/0x20 + r.below(room) }
		slot := slotOf()
		for taken[slot] {
			slot = slotOf()
		}
		taken[slot] = true
		va := b.lay.kernel + phys.VirtAddr(slot*0x20)
		if rva, ok := b.p.rva(name); ok {
			va = b.lay.kernel + phys.VirtAddr(rva)
		}
		b.symbols[name] = va
		b.put(va, []byte{
			0x48, 0x89, 0x5c, 0x24, 0x08, 0x57, 0x48, 0x83, 0xec, 0x20, 0x48, 0x8b, 0xd9, 0x33, 0xc0, 0x48,
			0x8b, 0x5c, 0x24, 0x30, 0x48, 0x83, 0xc4, 0x20, 0x5f, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
		})
		return uint32(va - b.lay.kernel)
	}
	textVA := b.lay.kernel + phys.VirtAddr(text.rva)
	exports := map[string]uint32{}
	for _, n := range slices.Concat(exportedRoutines, b.p.exports) {
		exports[n] = place(n, textVA, room)
	}
	place("KiSystemStartup", textVA, room)
	place("KiIdleLoop", textVA, room)
	for _, f := range b.p.kdbg.pointers {
		if f.size == 0 && b.symbols[f.name] == 0 {
			place(f.name, textVA, room)
		}
	}
	for _, n := range trapRoutines {
		place(n, textVA, room)
	}
	// Interrupt vectors have thunks of 8 bytes each.
	b.symbols["KiIsrThunk"] = textVA + phys.VirtAddr(text.size-spareSize-0x1000)
	if b.p.hasSection("KVASCODE") {
		kva := b.p.section("KVASCODE")
		for _, n := range trapRoutines {
			place(n+"Shadow", b.lay.kernel+phys.VirtAddr(kva.rva), 0x1000/0x20)
		}
		b.symbols["KiIsrThunkShadow"] = b.lay.kernel + phys.VirtAddr(kva.rva+0x1000)
	}
	return exports
}

// setVariables writes the values that don't depend on anything placed later.
func (b *builder) setVariables() {
	b.Truth.PsLoadedModuleList = b.symbols["PsLoadedModuleList"]
	b.Truth.PsActiveProcessHead = b.symbols["PsActiveProcessHead"]
	b.put32(b.symbols["NtBuildNumber"], 0xF0000000|b.p.build)
	b.put(b.symbols["KeNumberProcessors"], []byte{byte(b.Config.CPUs)}) // a CCHAR
	b.put(b.symbols["NtBuildLab"], []byte(b.p.buildLab))
	b.putPointer(b.symbols["MmHighestUserAddress"], b.p.userLimit-0x10000-1)
	b.putPointer(b.symbols["MmUserProbeAddress"], b.p.userLimit-0x10000)
	b.putPointer(b.symbols["MmSystemRangeStart"], b.systemStart())
	b.putPointer(b.symbols["MmPfnDatabase"], uint64(b.lay.pfn))
	b.Truth.PfnDatabase = b.lay.pfn
	b.setPhysicalCounts()
	if b.Config.PlainKDBG {
		b.put(b.symbols["KdDebuggerEnabled"], []byte{1})
	} else {
		b.put(b.symbols["KdDebuggerNotPresent"], []byte{1})
	}
}

// setPhysicalCounts writes what kernels before Windows 10 kept of the size of
// memory.
func (b *builder) setPhysicalCounts() {
	var pages uint64
	for _, r := range b.Truth.Runs {
		pages += r.Pages
	}
	last := b.Truth.Runs[len(b.Truth.Runs)-1]
	for name, v := range map[string]uint64{
		"MmLowestPhysicalPage":    uint64(b.Truth.Runs[0].Base),
		"MmHighestPhysicalPage":   uint64(last.End() - 1),
		"MmNumberOfPhysicalPages": pages,
	} {
		if va, ok := b.symbols[name]; ok {
			b.put64(va, v)
		}
	}
}
