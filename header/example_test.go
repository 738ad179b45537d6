package header_test

import (
	"fmt"

	"snap/header"
	"snap/phys"
)

func ExampleInitializeCrashDumpHeader() {
	facts := &header.Facts{
		Machine:             header.MachineAMD64,
		NtBuildNumber:       0xF000_4A61,
		DirectoryTableBase:  0x1A_D000,
		PsLoadedModuleList:  0xFFFF_F804_7C62_A390,
		PsActiveProcessHead: 0xFFFF_F804_7C61_E200,
		KdDebuggerDataBlock: 0xFFFF_F804_7C60_0B20,
		NumberProcessors:    4,
		Runs:                []phys.Run{{Base: 0x1, Pages: 0x9F}, {Base: 0x100, Pages: 0x7FF00}},
		BugCheckCode:        header.BugCheckLiveSystemDump,
	}
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
	fmt.Println(h.DumpType, h.MachineImageType, h.MinorVersion, h.Describes(facts.Runs))
	// Output:
	// initialize crash dump header: buffer of 0x0 bytes: a header has 0x2000 (STATUS_BUFFER_TOO_SMALL)
	// full AMD64 19041 true
}
