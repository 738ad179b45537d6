package header

import "snap/phys"

// Names that are used in code as well as in the table.
const (
	nameNumberOfRuns  = "NumberOfRuns"
	nameNumberOfPages = "NumberOfPages"
	nameRun           = "Run"
)

// descriptorSize is the room for PHYSICAL_MEMORY_DESCRIPTOR: the header unites
// it with a buffer of 700 bytes.
const descriptorSize = 700

// Where the descriptor begins in each layout.
const (
	descriptor64 = 0x0088
	descriptor32 = 0x064
)

// reserved is what a field says that is kept but never interpreted.
const reserved = "padding or reserved"

// rows are all that the package knows of a header's fields, one row each, in
// the order of DUMP_HEADER64.
//
// in64 is the place in DUMP_HEADER64 (QEMU include/qemu/win_dump_defs.h,
// WinDumpHeader64; kdmp-parser src/lib/kdmp-parser-structs.h, HEADER64), in32
// that in DUMP_HEADER32 (WinDumpHeader32; volatility3
// symbols/windows/crash.json).
var rows = []row{
	{
		"Signature", at(0x0000, 4), at(0x000, 4), KindTag, "always PAGE",
		func(h *Header) cell { return num(&h.Signature) },
		func(h *Header, m *making) string { return constant(&h.Signature, Signature) },
	},
	{
		"ValidDump", at(0x0004, 4), at(0x004, 4), KindTag, "DU64 or DUMP by pointer width; anything else is no finished dump",
		func(h *Header) cell { return num(&h.ValidDump) },
		func(h *Header, m *making) string { return constant(&h.ValidDump, m.width.validDump()) },
	},
	{
		"MajorVersion", at(0x0008, 4), at(0x008, 4), KindHex, "0xf is a free build, 0xc a checked one",
		func(h *Header) cell { return num(&h.MajorVersion) },
		func(h *Header, m *making) string {
			return know(&h.MajorVersion, m.NtBuildNumber.Value>>28, m.NtBuildNumber.From)
		},
	},
	{
		"MinorVersion", at(0x000C, 4), at(0x00C, 4), KindNumber, "build number of Windows",
		func(h *Header) cell { return num(&h.MinorVersion) },
		func(h *Header, m *making) string {
			return know(&h.MinorVersion, m.NtBuildNumber.Value&0xFFFF, m.NtBuildNumber.From)
		},
	},
	{
		"DirectoryTableBase", at(0x0010, 8), at(0x010, 4), KindPhysical, "top-level page table of the System process",
		func(h *Header) cell { return num(&h.DirectoryTableBase) },
		func(h *Header, m *making) string {
			return know(&h.DirectoryTableBase, m.tableBase(), m.DirectoryTableBase.From)
		},
	},
	{
		"PfnDataBase", at(0x0018, 8), at(0x014, 4), KindVirtual, "page frame database, or the variable that points to it",
		func(h *Header) cell { return num(&h.PfnDataBase) },
		func(h *Header, m *making) string { return m.pfnDatabase(h) },
	},
	{
		"PsLoadedModuleList", at(0x0020, 8), at(0x018, 4), KindVirtual, "head of the list of kernel modules",
		func(h *Header) cell { return num(&h.PsLoadedModuleList) },
		func(h *Header, m *making) string { return m.address(&h.PsLoadedModuleList, m.PsLoadedModuleList) },
	},
	{
		"PsActiveProcessHead", at(0x0028, 8), at(0x01C, 4), KindVirtual, "head of the list of processes",
		func(h *Header) cell { return num(&h.PsActiveProcessHead) },
		func(h *Header, m *making) string { return m.address(&h.PsActiveProcessHead, m.PsActiveProcessHead) },
	},
	{
		"MachineImageType", at(0x0030, 4), at(0x020, 4), KindMachine, "processor architecture",
		func(h *Header) cell { return num(&h.MachineImageType) },
		func(h *Header, m *making) string { return take(&h.MachineImageType, m.Machine) },
	},
	{
		"NumberProcessors", at(0x0034, 4), at(0x024, 4), KindNumber, "active processors",
		func(h *Header) cell { return num(&h.NumberProcessors) },
		func(h *Header, m *making) string { return take(&h.NumberProcessors, m.NumberProcessors) },
	},
	{
		"BugCheckCode", at(0x0038, 4), at(0x028, 4), KindHex, "why Windows stopped, or 0x161 for a live dump",
		func(h *Header) cell { return num(&h.BugCheckCode) },
		func(h *Header, m *making) string { return take(&h.BugCheckCode, m.BugCheckCode) },
	},
	{name: "Padding3C", in64: at(0x003C, 4), doc: reserved},
	{
		"BugCheckParameter1", at(0x0040, 8), at(0x02C, 4), KindHex, "first parameter of the bug check",
		func(h *Header) cell { return num(&h.BugCheckParameter[0]) },
		func(h *Header, m *making) string { return take(&h.BugCheckParameter[0], m.BugCheckParameter[0]) },
	},
	{
		"BugCheckParameter2", at(0x0048, 8), at(0x030, 4), KindHex, "second parameter of the bug check",
		func(h *Header) cell { return num(&h.BugCheckParameter[1]) },
		func(h *Header, m *making) string { return take(&h.BugCheckParameter[1], m.BugCheckParameter[1]) },
	},
	{
		"BugCheckParameter3", at(0x0050, 8), at(0x034, 4), KindHex, "third parameter of the bug check",
		func(h *Header) cell { return num(&h.BugCheckParameter[2]) },
		func(h *Header, m *making) string { return take(&h.BugCheckParameter[2], m.BugCheckParameter[2]) },
	},
	{
		"BugCheckParameter4", at(0x0058, 8), at(0x038, 4), KindHex, "fourth parameter of the bug check",
		func(h *Header) cell { return num(&h.BugCheckParameter[3]) },
		func(h *Header, m *making) string { return take(&h.BugCheckParameter[3], m.BugCheckParameter[3]) },
	},
	{
		"VersionUser", at(0x0060, 32), at(0x03C, 32), KindText, "free text, unused",
		func(h *Header) cell { return textCell{&h.VersionUser} },
		nil,
	},
	{
		"PaeEnabled", at(0, 0), at(0x05C, 1), KindNumber, "1 where paging uses PAE",
		func(h *Header) cell { return num(&h.PaeEnabled) },
		func(h *Header, m *making) string { return m.paeEnabled(h) },
	},
	{
		"KdDebuggerDataBlock", at(0x0080, 8), at(0x060, 4), KindVirtual, "debugger data block (KDBG), 0 for none",
		func(h *Header) cell { return num(&h.KdDebuggerDataBlock) },
		func(h *Header, m *making) string { return m.kdbg(h) },
	},
	{
		nameNumberOfRuns, at(descriptor64, 4), at(descriptor32, 4), KindNumber, "runs of physical memory",
		nil,
		func(h *Header, m *making) string { return m.runs(h) },
	},
	{name: "Padding8C", in64: at(0x008C, 4), doc: reserved},
	{
		nameNumberOfPages, at(0x0090, 8), at(0x068, 4), KindNumber, "pages in all runs",
		func(h *Header) cell { return num(&h.NumberOfPages) },
		func(h *Header, m *making) string { return m.numberOfPages(h) },
	},
	{
		nameRun, at(0x0098, descriptorSize-16), at(0x06C, descriptorSize-8), KindRuns, "physical memory, in the order of the file",
		nil,
		func(h *Header, m *making) string { return m.runs(h) },
	},
	{name: "Padding344", in64: at(0x0344, 4), doc: reserved},
	{
		"ContextRecord", at(0x0348, 3000), at(0x320, 1200), KindContext, "registers of the processor that is shown first",
		func(h *Header) cell { return bytesCell{&h.ContextRecord} },
		func(h *Header, m *making) string { return m.contextRecord(h) },
	},
	{
		"ExceptionCode", at(0x0F00, 4), at(0x7D0, 4), KindHex, "exception that is shown",
		func(h *Header) cell { return num(&h.ExceptionRecord.ExceptionCode) },
		func(h *Header, m *making) string { return constant(&h.ExceptionRecord.ExceptionCode, statusBreakpoint) },
	},
	{
		"ExceptionFlags", at(0x0F04, 4), at(0x7D4, 4), KindHex, "1 is noncontinuable",
		func(h *Header) cell { return num(&h.ExceptionRecord.ExceptionFlags) },
		func(h *Header, m *making) string {
			return constant(&h.ExceptionRecord.ExceptionFlags, exceptionNoncontinuable)
		},
	},
	{
		"ExceptionRecord", at(0x0F08, 8), at(0x7D8, 4), KindVirtual, "nested exception record",
		func(h *Header) cell { return num(&h.ExceptionRecord.ExceptionRecord) },
		func(h *Header, m *making) string { return constant(&h.ExceptionRecord.ExceptionRecord, 0) },
	},
	{
		"ExceptionAddress", at(0x0F10, 8), at(0x7DC, 4), KindVirtual, "where the exception is said to have happened",
		func(h *Header) cell { return num(&h.ExceptionRecord.ExceptionAddress) },
		func(h *Header, m *making) string { return m.exceptionAddress(h) },
	},
	{
		"NumberParameters", at(0x0F18, 4), at(0x7E0, 4), KindNumber, "valid entries of ExceptionInformation",
		func(h *Header) cell { return num(&h.ExceptionRecord.NumberParameters) },
		func(h *Header, m *making) string { return constant(&h.ExceptionRecord.NumberParameters, 0) },
	},
	{name: "PaddingF1C", in64: at(0x0F1C, 4), doc: reserved},
	{
		"ExceptionInformation", at(0x0F20, 15*8), at(0x7E4, 15*4), KindHexArray, "arguments of the exception",
		func(h *Header) cell { return arrayCell{h.ExceptionRecord.ExceptionInformation[:]} },
		nil,
	},
	{
		"DumpType", at(0x0F98, 4), at(0xF88, 4), KindDumpType, "what the file holds and where",
		func(h *Header) cell { return num(&h.DumpType) },
		func(h *Header, m *making) string { return constant(&h.DumpType, m.dumpType) },
	},
	{name: "PaddingF9C", in64: at(0x0F9C, 4), doc: reserved},
	{
		"RequiredDumpSpace", at(0x0FA0, 8), at(0xFA0, 8), KindNumber, "size of the dump in bytes",
		func(h *Header) cell { return num(&h.RequiredDumpSpace) },
		func(h *Header, m *making) string {
			return know(&h.RequiredDumpSpace, m.firstPage+m.pages<<phys.PageShift, FromSize)
		},
	},
	{name: "ReservedFA8", in32: at(0xFA8, 16), doc: reserved},
	{
		"SystemTime", at(0x0FA8, 8), at(0xFC0, 8), KindFileTime, "the guest's clock, UTC",
		func(h *Header) cell { return num(&h.SystemTime) },
		func(h *Header, m *making) string { return take(&h.SystemTime, m.SystemTime) },
	},
	{name: "ReservedFC8", in32: at(0xFC8, 56), doc: reserved},
	{
		"Comment", at(0x0FB0, 128), at(0x820, 128), KindText, "free text",
		func(h *Header) cell { return textCell{&h.Comment} },
		func(h *Header, m *making) string { return take(&h.Comment, m.Comment) },
	},
	{
		"SystemUpTime", at(0x1030, 8), at(0xFB8, 8), KindUpTime, "time since the guest booted",
		func(h *Header) cell { return num(&h.SystemUpTime) },
		func(h *Header, m *making) string { return take(&h.SystemUpTime, m.SystemUpTime) },
	},
	{
		"MiniDumpFields", at(0x1038, 4), at(0xF8C, 4), KindHex, "content of a triage dump",
		func(h *Header) cell { return num(&h.MiniDumpFields) },
		nil,
	},
	{
		"SecondaryDataState", at(0x103C, 4), at(0xF90, 4), KindHex, "status of secondary data",
		func(h *Header) cell { return num(&h.SecondaryDataState) },
		nil,
	},
	{
		"ProductType", at(0x1040, 4), at(0xF94, 4), KindNumber, "1 workstation, 2 domain controller, 3 server",
		func(h *Header) cell { return num(&h.ProductType) },
		func(h *Header, m *making) string { return take(&h.ProductType, m.ProductType) },
	},
	{
		"SuiteMask", at(0x1044, 4), at(0xF98, 4), KindHex, "product suites",
		func(h *Header) cell { return num(&h.SuiteMask) },
		func(h *Header, m *making) string { return take(&h.SuiteMask, m.SuiteMask) },
	},
	{
		"WriterStatus", at(0x1048, 4), at(0xF9C, 4), KindHex, "0 is success",
		func(h *Header) cell { return num(&h.WriterStatus) },
		func(h *Header, m *making) string { return constant(&h.WriterStatus, 0) },
	},
	{name: "Unused104C", in64: at(0x104C, 1), doc: reserved},
	{
		"KdSecondaryVersion", at(0x104D, 1), at(0x05D, 1), KindNumber, "layout of CONTEXT",
		func(h *Header) cell { return num(&h.KdSecondaryVersion) },
		func(h *Header, m *making) string { return constant(&h.KdSecondaryVersion, m.secondaryVersion()) },
	},
	{name: "Spare5E", in32: at(0x05E, 2), doc: reserved},
	{name: "Unused104E", in64: at(0x104E, 2), doc: reserved},
	{
		"Attributes", at(0x1050, 4), at(0x8A0, 4), KindHex, "DUMP_FILE_ATTRIBUTES",
		func(h *Header) cell { return num(&h.Attributes) },
		func(h *Header, m *making) string { return constant(&h.Attributes, 0) },
	},
	{
		"BootId", at(0x1054, 4), at(0x8A4, 4), KindNumber, "boots since Windows was installed",
		func(h *Header) cell { return num(&h.BootID) },
		func(h *Header, m *making) string { return take(&h.BootID, m.BootID) },
	},
	{name: "Reserved8A8", in32: at(0x8A8, 1760), doc: reserved},
	{name: "Reserved1058", in64: at(0x1058, 4008), doc: reserved},
}
