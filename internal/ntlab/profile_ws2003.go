package ntlab

// ws2003 is Windows Server 2003 SP1 for x64 (NT 5.2, build 3790): no address
// space randomisation, no encoded KDBG, no start block in low memory, a kernel
// in 4 KiB pages, processor 0's KPCR inside the kernel image, and no pointer
// to a CONTEXT in KPRCB. Offsets: Microsoft's public symbols of that kernel,
// as volatility's win2003_sp1_x64_vtypes.py lists them.
var ws2003 = profile{
	name: "ws2003sp1-x64", major: 5, minor: 2, build: 3790,
	productType: 3, suiteMask: 0x112,
	buildLab:  "3790.srv03_sp1_rtm.050324-1447",
	userLimit: 0x80000000000, systemStart: 0xFFFF080000000000,
	processes: []string{
		"System", "smss.exe", "csrss.exe", "winlogon.exe", "services.exe", "lsass.exe", "svchost.exe",
		"svchost.exe", "spoolsv.exe", "explorer.exe",
	},

	sizeOfImage: 0x46b000,
	kernelBase:  0xFFFFF80001000000,
	moduleBase:  0xFFFFFADF5C000000,
	selfMapSlot: 0x1ED,
	fixedLayout: true,
	sections: []section{
		{".text", 0x1000, 0x119000, scnCode},
		{"INITKDBG", 0x11a000, 0x1000, scnPaged},
		{"POOLMI", 0x11b000, 0x2000, scnCode},
		{"POOLCODE", 0x11d000, 0x5000, scnCode},
		{".rdata", 0x122000, 0x40000, scnRead},
		{".data", 0x162000, 0x90000, scnWrite},
		{".pdata", 0x1f2000, 0x27000, scnRead},
		{"ALMOSTRO", 0x219000, 0x9000, scnWrite},
		{"SPINLOCK", 0x222000, 0x2000, scnWrite},
		{"PAGE", 0x224000, 0x160000, scnPaged},
		{"PAGELK", 0x384000, 0x16000, scnPaged},
		{"PAGEKD", 0x39a000, 0x4000, scnPaged},
		{"PAGEDATA", 0x39e000, 0x2000, 0xC0000040},
		{".edata", 0x3a0000, 0x11000, scnRead},
		{"INIT", 0x3b1000, 0x68000, scnDiscard},
		{".rsrc", 0x419000, 0x4a000, 0x42000040},
		{".reloc", 0x463000, 0x8000, scnReloc},
	},
	modules:     ws2003Modules,
	exports:     []string{"MmMapMemoryDumpMdl", "KeGetPreviousMode", "ExQueueWorkItem", "RtlUnwindEx"},
	dataExports: []string{"KeNumberProcessors"},

	kdbg: ws2003KDBG,
	processor: processorLayout{
		sizePCR: 0x2600, sizePRCB: 0x2480, containedPRCB: 0x180,
		number: 4, numberSize: 1,
		specialRegisters: 0x40, stateContext: 0x120,
		vendorString: 0x22B4, mhz: 0x5F4,
		maxProcessors:  64,
		cr4:            0x6f8,
		bootPCRInImage: true,
	},
	process: processLayout{
		size: 0x3E0, directoryTableBase: 0x28,
		uniqueProcessID: 0xD8, links: 0xE0, peb: 0x2C0, parentID: 0x218,
		imageFileName: 0x268, createTime: 0xC0, threadListHead: 0x290, objectType: 3,
	},
	thread: threadLayout{
		size: 0x428, initialStack: 0x28, stackLimit: 0x30, kernelStack: 0x38, stackBase: 0x258,
		apcProcess: 0x68, teb: 0xB0, state: 0x154, nextProcessor: 0x74,
	},
}

var ws2003Modules = []moduleSpec{
	{`\SystemRoot\system32\hal.dll`, 0x43000},
	{`\SystemRoot\system32\KDCOM.DLL`, 0x7000},
	{`\SystemRoot\system32\BOOTVID.dll`, 0x8000},
	{`\SystemRoot\system32\DRIVERS\ACPI.sys`, 0x6b000},
	{`\SystemRoot\system32\DRIVERS\WMILIB.SYS`, 0x7000},
	{`\SystemRoot\system32\DRIVERS\pci.sys`, 0x21000},
	{`\SystemRoot\system32\DRIVERS\isapnp.sys`, 0x15000},
	{`\SystemRoot\system32\DRIVERS\intelide.sys`, 0x6000},
	{`\SystemRoot\system32\DRIVERS\PCIIDEX.SYS`, 0xe000},
	{`\SystemRoot\system32\DRIVERS\MountMgr.sys`, 0x1b000},
	{`\SystemRoot\system32\DRIVERS\ftdisk.sys`, 0x30000},
	{`\SystemRoot\system32\DRIVERS\partmgr.sys`, 0xc000},
	{`\SystemRoot\system32\DRIVERS\volsnap.sys`, 0x3b000},
	{`\SystemRoot\system32\DRIVERS\atapi.sys`, 0x24000},
	{`\SystemRoot\system32\DRIVERS\disk.sys`, 0x13000},
	{`\SystemRoot\system32\DRIVERS\CLASSPNP.SYS`, 0x17000},
	{`\SystemRoot\system32\DRIVERS\Ntfs.sys`, 0x119000},
	{`\SystemRoot\system32\DRIVERS\NDIS.sys`, 0x6c000},
	{`\SystemRoot\system32\DRIVERS\Mup.sys`, 0x23000},
}
