package header_test

import (
	"fmt"

	"snap/header"
	"snap/phys"
)

// someFacts are what a header needs at least. A program has the values from the
// guest's memory, with what it read them from.
func someFacts() *header.Facts {
	const kernel = "kernel image"
	return &header.Facts{
		Machine:             phys.Know(header.MachineAMD64, kernel),
		NtBuildNumber:       phys.Know[uint32](0xF000_4A61, "export NtBuildNumber"),
		DirectoryTableBase:  phys.Know[phys.Addr](0x1A_D000, "PsInitialSystemProcess"),
		PsLoadedModuleList:  phys.Know[phys.VirtAddr](0xFFFF_F804_7C62_A390, "KDBG"),
		PsActiveProcessHead: phys.Know[phys.VirtAddr](0xFFFF_F804_7C61_E200, "KDBG"),
		KdDebuggerDataBlock: phys.Know[phys.VirtAddr](0xFFFF_F804_7C60_0B20, kernel),
		NumberProcessors:    phys.Know[uint32](4, "KDBG KiProcessorBlock"),
		Runs: phys.Know([]phys.Run{{Base: 0x1, Pages: 0x9F}, {Base: 0x100, Pages: 0x7FF00}},
			"KDBG MmPhysicalMemoryBlock"),
		BugCheckCode: phys.Know(header.BugCheckLiveSystemDump, header.FromNotCrashed),
	}
}

func ExampleMake() {
	h, b, err := header.Make(someFacts(), header.DumpTypeFull)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("the first page follows at %#x\n", len(b))
	for _, f := range h.Fields() {
		switch f.Name {
		case "DirectoryTableBase", "BugCheckCode", "Run", "DumpType":
			fmt.Printf("%s is %s, from %s\n", f.Name, f.Value, f.From)
		}
	}
	// Output:
	// the first page follows at 0x2000
	// DirectoryTableBase is 0x1ad000, from PsInitialSystemProcess
	// BugCheckCode is 0x161, from snap: the guest has not crashed
	// Run is [0x1000, 0xa0000) [0x100000, 0x80000000), from KDBG MmPhysicalMemoryBlock
	// DumpType is full (1), from dump format
}

func ExampleInitializeCrashDumpHeader() {
	facts := someFacts()
	needed, err := header.InitializeCrashDumpHeader(uint32(header.DumpTypeFull), 0, nil, facts)
	fmt.Println(err)

	buffer := make([]byte, needed)
	if _, err := header.InitializeCrashDumpHeader(uint32(header.DumpTypeFull), 0, buffer, facts); err != nil {
		fmt.Println(err)
		return
	}
	h, err := header.Decode(buffer)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.DumpType, h.MachineImageType, h.MinorVersion, h.Describes(facts.Runs.Value))
	// Output:
	// initialize crash dump header: buffer of 0x0 bytes: a header has 0x2000 (STATUS_BUFFER_TOO_SMALL)
	// full AMD64 19041 true
}
