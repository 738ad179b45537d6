package ntlab

import (
	"testing"
	"unicode/utf16"
)

// TestGenerationStructures: sizes and offsets are the row's, in the guest's
// structures and in its KDBG.
func TestGenerationStructures(t *testing.T) {
	for _, user := range []bool{false, true} {
		everyGeneration(t, Config{CPUs: 2, KPTI: true, UserMode: user}, func(g generation) {
			g.checkProcessors()
			g.checkProcesses()
			g.checkKUSER()
			g.checkKDBGWords()
			entry := g.list(uint64(g.im.Truth.PsLoadedModuleList))[1]
			m := g.im.Truth.Modules[1]
			g.field(entry, "LDR_DllBase", 8, uint64(m.Base))
			g.field(entry, "LDR_SizeOfImage", 4, uint64(m.Size))
			g.field(entry, "LDR_BaseDllName", 2, uint64(2*len(m.Name)))
			g.field(entry, "LDR_FullDllName", 2, uint64(2*len(`\SystemRoot\system32\hal.dll`)))
			g.field(entry, "LDR_EntryPoint", 8, uint64(m.Base)+0x1040)
		})
	}
}

func (g generation) checkProcessors() {
	g.t.Helper()
	for i, p := range g.im.Truth.Processors {
		regs := g.im.Registers()[p.VCPU]
		kpcr, prcb := uint64(p.KPCR), uint64(p.KPRCB)
		g.field(kpcr, "KPCR_Self", 8, kpcr)
		g.field(kpcr, "KPCR_CurrentPrcb", 8, prcb)
		g.field(kpcr, "KPCR_GdtBase", 8, regs.GDT.Base)
		g.field(kpcr, "KPCR_IdtBase", 8, regs.IDT.Base)
		if off, ok := g.value("KPCR_Prcb"); ok && kpcr+off != prcb {
			g.t.Errorf("KPRCB at KPCR + %#x; want %#x", prcb-kpcr, off)
		}
		number := 4
		if g.im.Truth.Build < 7600 {
			number = 1
		}
		g.field(prcb, "KPRCB_Number", number, uint64(i))
		g.field(prcb, "KPRCB_LegacyNumber", 1, uint64(i))
		g.field(prcb, "KPRCB_Context", 8, uint64(p.Context))
		g.field(prcb, "KPRCB_MHz", 4, 2593)
		g.field(prcb, "KPRCB_VendorString", 8, 0x49656E69756E6547) // GenuineI
		g.field(prcb, "KPRCB_Group", 1, 0)
		if g.im.Config.KPTI {
			g.field(prcb, "KPRCB_KernelDirectoryTableBase", 8, uint64(g.im.Truth.DirectoryTableBase)|2)
		}
		if state, ok := g.value("KPRCB_ProcessorState"); ok {
			if got := g.u64(prcb + state + 0x10); got != uint64(g.im.Truth.DirectoryTableBase) {
				g.t.Errorf("CR3 of processor %d's special registers = %#x", i, got)
			}
		}
		if off, ok := g.value("KPRCB_CurrentThread"); ok {
			g.checkThread(g.u64(prcb+off), regs.RSP)
		}
	}
	g.checkEntries()
}

func (g generation) checkThread(thread, rsp uint64) {
	g.t.Helper()
	base, ok1 := g.value("KTHREAD_StackBase")
	limit, ok2 := g.value("KTHREAD_StackLimit")
	if !ok1 || !ok2 {
		return
	}
	if low, high := g.u64(thread+limit), g.u64(thread+base); !g.im.Config.UserMode && (rsp < low || rsp >= high) {
		g.t.Errorf("RSP %#x is not on the thread's stack, %#x to %#x", rsp, low, high)
	}
	g.field(thread, "KTHREAD_State", 1, 2)
	g.field(thread, "KTHREAD_KernelStack", 8, g.u64(thread+base)-0x1020)
	g.field(thread, "KTHREAD_InitialStack", 8, g.u64(thread+base)-0x370)
	apc, _ := g.value("KTHREAD_ApcState")
	if dtb := g.u64(g.u64(thread+apc+0x20) + 0x28); dtb&^0xfff == 0 {
		g.t.Errorf("the process of thread %#x has no page table", thread)
	}
}

// checkEntries: system calls and interrupts go where the row says.
func (g generation) checkEntries() {
	g.t.Helper()
	regs := g.im.Registers()[0]
	call := "KiSystemCall64"
	if g.im.Config.KPTI {
		call += "Shadow"
	} else if want, ok := g.variable("KiDivideErrorFault"); ok {
		gate := g.bytes(regs.IDT.Base, 16)
		got := uint64(le.Uint16(gate)) | uint64(le.Uint16(gate[6:]))<<16 | uint64(le.Uint32(gate[8:]))<<32
		if got != want {
			g.t.Errorf("IDT[0] = %#x; want %#x", got, want)
		}
	}
	if want, ok := g.variable(call); ok && regs.LSTAR != want {
		g.t.Errorf("LSTAR = %#x; want %s, %#x", regs.LSTAR, call, want)
	}
}

func (g generation) checkProcesses() {
	g.t.Helper()
	if links, ok := g.value("EPROCESS_ActiveProcessLinks"); ok {
		for i, entry := range g.list(uint64(g.im.Truth.PsActiveProcessHead)) {
			if want := g.im.Truth.Processes[i].EPROCESS; entry-links != uint64(want) {
				g.t.Errorf("process %d is linked at %#x, %#x into it; want %#x", i, entry, entry-uint64(want), links)
			}
		}
	}
	for i, p := range g.im.Truth.Processes {
		e := uint64(p.EPROCESS)
		g.field(e, "KPROCESS_DirectoryTableBase", 8, uint64(p.DirectoryTableBase)|map[bool]uint64{true: 2}[g.im.Config.KPTI])
		g.field(e, "EPROCESS_UniqueProcessId", 8, p.PID)
		if off, ok := g.value("EPROCESS_ImageFileName"); ok && string(g.bytes(e+off, len(p.Name))) != p.Name {
			g.t.Errorf("process %d: no name %s at %#x", i, p.Name, off)
		}
		if p.PID != 4 {
			g.field(e, "EPROCESS_InheritedFromUniqueProcessId", 8, 4)
		}
		if off, ok := g.value("EPROCESS_ThreadListHead"); ok && len(g.list(e+off)) != 0 {
			g.t.Errorf("process %d: threads at %#x", i, off)
		}
		if off, ok := g.value("EPROCESS_CreateTime"); ok && g.u64(e+off) > g.im.Truth.SystemTime {
			g.t.Errorf("process %d is from the future: %d", i, g.u64(e+off))
		}
		if off, ok := g.value("EPROCESS_Peb"); ok && (g.u64(e+off) == 0) != (p.PID == 4) {
			g.t.Errorf("process %d: PEB %#x", i, g.u64(e+off))
		}
		if off, ok := g.value("KPROCESS_UserDirectoryTableBase"); ok && g.im.Config.KPTI && g.u64(e+off) == 0 {
			g.t.Errorf("process %d: no user table", i)
		}
	}
}

func (g generation) checkKUSER() {
	g.t.Helper()
	const user = 0xFFFFF78000000000
	truth := &g.im.Truth
	g.field(user, "KUSER_InterruptTime", 4, truth.InterruptTime&0xffffffff)
	g.field(user, "KUSER_SystemTime", 4, truth.SystemTime&0xffffffff)
	g.field(user, "KUSER_ImageNumberLow", 2, 0x8664)
	g.field(user, "KUSER_NtBuildNumber", 4, uint64(truth.Build))
	g.field(user, "KUSER_NtProductType", 4, uint64(truth.ProductType))
	g.field(user, "KUSER_SuiteMask", 4, uint64(truth.SuiteMask))
	g.field(user, "KUSER_BootId", 4, uint64(truth.BootID))
	g.field(user, "KUSER_ActiveProcessorCount", 4, 2)
	g.field(user, "KUSER_ActiveGroupCount", 1, 1)
	if off, ok := g.value("KUSER_NtSystemRoot"); ok {
		if got := string(utf16.Decode([]uint16{g.u16(user + off), g.u16(user + off + 2)})); got != "C:" {
			g.t.Errorf("NtSystemRoot begins with %q", got)
		}
	}
}

// checkKDBGWords: the KDBG tells debuggers the row's sizes and offsets.
func (g generation) checkKDBGWords() {
	g.t.Helper()
	k := g.im.Truth.KDBGPlain
	sum := func(columns ...string) (v uint64) {
		for _, c := range columns {
			n, _ := g.value(c)
			v += n
		}
		return v
	}
	for off, columns := range map[int][]string{
		0x298: {"KTHREAD_NextProcessor"}, 0x29A: {"KTHREAD_Teb"}, 0x29C: {"KTHREAD_KernelStack"}, 0x29E: {"KTHREAD_InitialStack"},
		0x2A2: {"KTHREAD_State"}, 0x2A8: {"EPROCESS_size"}, 0x2AA: {"EPROCESS_Peb"},
		0x2AC: {"EPROCESS_InheritedFromUniqueProcessId"}, 0x2AE: {"KPROCESS_DirectoryTableBase"}, 0x2B0: {"KPRCB_size"},
		0x2B4: {"KPRCB_CurrentThread"}, 0x2B6: {"KPRCB_MHz"}, 0x2BA: {"KPRCB_VendorString"},
		0x2BC: {"KPRCB_ProcessorState", "KPROCESSOR_STATE_ContextFrame"}, 0x2BE: {"KPRCB_Number"}, 0x2C0: {"ETHREAD_size"},
		0x2E0: {"KPCR_size"}, 0x2E2: {"KPCR_Self"}, 0x2E4: {"KPCR_CurrentPrcb"}, 0x2E6: {"KPCR_Prcb"},
		0x2F2: {"KPRCB_ProcessorState"}, 0x338: {"KPRCB_Context"},
	} {
		whole := true
		for _, c := range columns {
			_, ok := g.value(c)
			whole = whole && ok
		}
		if whole && uint64(le.Uint16(k[off:])) != sum(columns...) {
			g.t.Errorf("KDBG+%#x = %#x; want %v, %#x", off, le.Uint16(k[off:]), columns, sum(columns...))
		}
	}
}
