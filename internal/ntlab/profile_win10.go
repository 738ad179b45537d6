package ntlab

// Section characteristics (Microsoft PE format, IMAGE_SCN_*).
const (
	scnCode    = 0x68000020 // code, not paged, execute, read
	scnPaged   = 0x60000020 // code, execute, read
	scnRead    = 0x48000040 // initialised data, not paged, read
	scnWrite   = 0xC8000040 // and write
	scnDiscard = 0x62000020 // code that is freed after start-up
	scnReloc   = 0x42000040
)

// win10 is Windows 10 2004 to 22H2, which share one kernel layout. Sizes and
// offsets of KPRCB, EPROCESS and ETHREAD are those that the KDBG of a public
// triage dump of build 19041 states, or that the structures in that dump show
// (rizinorg/rizin-testbins, dmp/triage_x64.dmp); ImageFileName and
// ActiveProcessLinks are in the System process that it holds.
// UserDirectoryTableBase is where headers made from that generation's symbols
// have it (ntdiff/headers, _KPROCESS). KernelDirectoryTableBase lies at a like
// place in its neighbours, but no source confirms it for this build: the dump
// has a zero there, since its machine needed no KVA shadow.
var win10 = profile{
	name: "win10-22h2", major: 10, minor: 0, build: 19045,
	productType: 1, suiteMask: 0x110,
	buildLab:  "19041.1.amd64fre.vb_release.191206-1406",
	userLimit: 0x800000000000, systemStart: 0xFFFF800000000000,
	processes: []string{
		"System", "Registry", "smss.exe", "csrss.exe", "wininit.exe", "csrss.exe", "winlogon.exe", "services.exe",
		"lsass.exe", "fontdrvhost.ex", "svchost.exe", "svchost.exe", "dwm.exe", "spoolsv.exe", "explorer.exe",
		"SearchIndexer.", "MsMpEng.exe",
	},

	sizeOfImage: 0x1046000,
	sections: []section{
		{".rdata", 0x1000, 0xcf000, scnRead},
		{".pdata", 0xd0000, 0x6d000, scnRead},
		{".idata", 0x13d000, 0x3000, scnRead},
		{".edata", 0x140000, 0x19000, scnRead},
		{"PROTDATA", 0x159000, 0x1000, scnRead},
		{"GFIDS", 0x15a000, 0xd000, scnRead},
		{"Pad1", 0x167000, 0x99000, 0x02000080 | 0x40000000},
		{".text", 0x200000, 0x3c9000, scnCode},
		{"PAGE", 0x5c9000, 0x3ca000, scnPaged},
		{"PAGELK", 0x993000, 0x27000, scnPaged},
		{"POOLCODE", 0x9ba000, 0x1000, scnCode},
		{"PAGEKD", 0x9bb000, 0x6000, scnPaged},
		{"PAGEVRFY", 0x9c1000, 0x2f000, scnPaged},
		{"PAGEHDLS", 0x9f0000, 0x3000, scnPaged},
		{"PAGEBGFX", 0x9f3000, 0x7000, scnPaged},
		{"INITKDBG", 0x9fa000, 0x1a000, scnPaged},
		{"TRACESUP", 0xa14000, 0x2000, scnCode},
		{"KVASCODE", 0xa16000, 0x3000, scnCode},
		{"RETPOL", 0xa19000, 0x1000, scnCode},
		{"MINIEX", 0xa1a000, 0x3000, scnCode},
		{"INIT", 0xa1d000, 0x8b000, scnDiscard},
		{"Pad2", 0xaa8000, 0x158000, 0x02000080 | 0x40000000},
		{".data", 0xc00000, 0xfc000, scnWrite},
		{"ALMOSTRO", 0xcfc000, 0x2e000, scnWrite},
		{"CACHEALI", 0xd2a000, 0x9000, scnWrite},
		{"PAGEDATA", 0xd33000, 0x11000, 0xC0000040},
		{"PAGEVRFD", 0xd44000, 0x14000, 0xC0000040},
		{"INITDATA", 0xd58000, 0x20000, 0xC2000040},
		{"Pad3", 0xd78000, 0x88000, 0x02000080 | 0x40000000},
		{"CFGRO", 0xe00000, 0x2000, scnWrite},
		{"Pad4", 0xe02000, 0x1fe000, 0x02000080 | 0x40000000},
		{".rsrc", 0x1000000, 0x38000, 0x42000040},
		{".reloc", 0x1038000, 0xe000, scnReloc},
	},
	largePages: true,
	modules:    win10Modules,
	exports: []string{
		"KeQueryActiveProcessorCountEx", "KeGetCurrentProcessorNumberEx", "MmGetPhysicalMemoryRangesEx",
		"MmMapIoSpaceEx", "ExAllocatePool2", "PsGetProcessImageFileName", "KeInitializeCrashDumpHeader",
		"RtlGetVersion", "ZwQuerySystemInformationEx", "KeInitializeTriageDumpDataArray",
	},

	lowStub: true,
	swizzle: true,

	kdbg:     win10KDBG,
	encrypts: true,
	processor: processorLayout{
		sizePCR: 0xB080, sizePRCB: 0xAF00, containedPRCB: 0x180,
		number: 0x24, numberSize: 4,
		specialRegisters: 0x100, stateContext: 0x1F0, contextPointer: 0x85C0,
		vendorString: 0x8590, mhz: 0x44, kernelDTB: 0x8E80,
		maxProcessors: 2048,
		cr4:           0x350ef8,
	},
	process: processLayout{
		size: 0xA40, directoryTableBase: 0x28, userDirectoryTable: 0x388,
		uniqueProcessID: 0x440, links: 0x448, peb: 0x550, parentID: 0x540,
		imageFileName: 0x5A8, createTime: 0x468, threadListHead: 0x5E0, objectType: 3,
	},
	thread: threadLayout{
		size: 0x898, initialStack: 0x28, stackLimit: 0x30, kernelStack: 0x58, stackBase: 0x38,
		apcProcess: 0xB8, teb: 0xF0, state: 0x184, nextProcessor: 0x218,
	},
	kuser: kuserLayout{buildNumber: true, bootID: true, processorCount: true},
}

// win10Modules is the head of the driver list of the same triage dump.
var win10Modules = []moduleSpec{
	{`\SystemRoot\system32\hal.dll`, 0x6000},
	{`\SystemRoot\system32\kd.dll`, 0xb000},
	{`\SystemRoot\System32\drivers\CLFS.SYS`, 0x6a000},
	{`\SystemRoot\System32\drivers\tm.sys`, 0x27000},
	{`\SystemRoot\system32\PSHED.dll`, 0x1a000},
	{`\SystemRoot\system32\BOOTVID.dll`, 0xb000},
	{`\SystemRoot\System32\drivers\FLTMGR.SYS`, 0x6f000},
	{`\SystemRoot\System32\drivers\msrpc.sys`, 0x62000},
	{`\SystemRoot\System32\drivers\ksecdd.sys`, 0x29000},
	{`\SystemRoot\System32\drivers\clipsp.sys`, 0x113000},
	{`\SystemRoot\System32\drivers\cmimcext.sys`, 0xe000},
	{`\SystemRoot\System32\drivers\werkernel.sys`, 0x11000},
	{`\SystemRoot\System32\drivers\ntosext.sys`, 0xc000},
	{`\SystemRoot\system32\CI.dll`, 0xe3000},
	{`\SystemRoot\System32\drivers\cng.sys`, 0xb7000},
	{`\SystemRoot\system32\drivers\Wdf01000.sys`, 0xd1000},
	{`\SystemRoot\system32\drivers\WDFLDR.SYS`, 0x13000},
	{`\SystemRoot\system32\drivers\WppRecorder.sys`, 0x11000},
	{`\SystemRoot\System32\Drivers\acpiex.sys`, 0x26000},
	{`\SystemRoot\System32\drivers\ACPI.sys`, 0xcc000},
	{`\SystemRoot\System32\drivers\WMILIB.SYS`, 0xc000},
	{`\SystemRoot\System32\drivers\msisadrv.sys`, 0xb000},
	{`\SystemRoot\System32\drivers\pci.sys`, 0x76000},
	{`\SystemRoot\System32\drivers\vdrvroot.sys`, 0x15000},
	{`\SystemRoot\System32\drivers\partmgr.sys`, 0x31000},
	{`\SystemRoot\System32\drivers\volmgr.sys`, 0x19000},
	{`\SystemRoot\System32\drivers\mountmgr.sys`, 0x1e000},
	{`\SystemRoot\System32\drivers\storahci.sys`, 0x32000},
}
