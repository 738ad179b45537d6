package dump_test

import (
	"bytes"
	"context"
	"fmt"

	"snap/dump"
	"snap/header"
	"snap/phys"
)

// counted is memory in which each byte is the low byte of its page's number.
type counted struct{}

func (counted) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for i := range p {
		p[i] = byte((at + phys.Addr(i)).PFN())
	}
	return nil
}

// A dump is written from a plan and a guest's memory, and read back as if it were
// not compressed.
func Example() {
	ctx := context.Background()
	const kernel = "kernel image"
	runs := []phys.Run{{Base: 0x1, Pages: 0x9F}, {Base: 0x100, Pages: 0x300}}
	_, head, err := header.Make(&header.Facts{
		Machine:             phys.Know(header.MachineAMD64, kernel),
		NtBuildNumber:       phys.Know[uint32](0xF000_4A61, "export NtBuildNumber"),
		DirectoryTableBase:  phys.Know[phys.Addr](0x1A_D000, "PsInitialSystemProcess"),
		PsLoadedModuleList:  phys.Know[phys.VirtAddr](0xFFFF_F804_7C62_A390, "KDBG"),
		PsActiveProcessHead: phys.Know[phys.VirtAddr](0xFFFF_F804_7C61_E200, "KDBG"),
		KdDebuggerDataBlock: phys.Know[phys.VirtAddr](0xFFFF_F804_7C60_0B20, kernel),
		NumberProcessors:    phys.Know[uint32](4, "KDBG KiProcessorBlock"),
		Runs:                phys.Know(runs, "KDBG MmPhysicalMemoryBlock"),
		BugCheckCode:        phys.Know(header.BugCheckLiveSystemDump, header.FromNotCrashed),
	}, header.DumpTypeFull)
	if err != nil {
		fmt.Println(err)
		return
	}
	var file bytes.Buffer
	plan := &dump.Plan{
		Header: head,
		Runs:   runs,
		// What a debugger should see instead of what the guest has.
		Overlays: []dump.Overlay{{At: 0x101_000, Data: []byte("decoded"), What: "KDBG"}},
	}
	st, err := dump.Write(ctx, &file, counted{}, plan, dump.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(st.Pages, "pages,", st.DumpBytes, "bytes when expanded, smaller as stored:", st.BytesWritten < st.DumpBytes/100)

	f, err := dump.NewFile(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	b := make([]byte, 9)
	if err := f.ReadPhys(ctx, b, 0x101_000); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s in %s: %q\n", f.RAM()[1], f.Container().Compression, b)
	// Output:
	// 927 pages, 3805184 bytes when expanded, smaller as stored: true
	// [0x100000, 0x400000) in zstd: "decoded\x01\x01"
}
