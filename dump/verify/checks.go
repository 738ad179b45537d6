package verify

import "snap/header"

// The checks, by the names that reports give them. They are stable.
const (
	CheckHeader            = "header"
	CheckRuns              = "physical memory runs"
	CheckBitmap            = "page bitmap"
	CheckKind              = "dump type and machine"
	CheckFileSize          = "file size"
	CheckEncryption        = "encryption"
	CheckDirectoryTable    = "DirectoryTableBase"
	CheckPageTables        = "page tables"
	CheckKUSER             = "KUSER_SHARED_DATA"
	CheckKDBG              = "KDBG"
	CheckListHeads         = "list heads"
	CheckKernel            = "kernel image"
	CheckModules           = "module list"
	CheckProcesses         = "process list"
	CheckFrames            = "container checksums"
	CheckMemflowRuns       = "runs for memflow"
	CheckMemflowBitmap     = "bitmap for memflow"
	CheckRadare2Bitmap     = "bitmap for radare2"
	CheckLeechCoreBitmap   = "bitmap for LeechCore"
	CheckLeechCoreFirst    = "first page for LeechCore"
	CheckBitmapBytes       = "whole bytes of the bitmap"
	CheckVolatilityBitmap  = "bitmap for volatility"
	CheckKernelRange       = "system range"
	CheckNoKDBG            = "a KDBG"
	CheckBugCheckData      = "bug check data"
	CheckMemoryBlock       = "memory block"
	CheckProcessors        = "NumberProcessors"
	CheckContexts          = "processor contexts"
	CheckContextMode       = "header context's mode"
	CheckMxCsr             = "header context's MxCsr"
	CheckTableBits         = "bits of DirectoryTableBase"
	CheckRequiredDumpSpace = "RequiredDumpSpace"
	CheckExceptionRecord   = "exception record"
	CheckOtherFields       = "other header fields"
	CheckKernelDumpTables  = "page tables of a kernel dump"
	CheckVersion           = "version and times"
	CheckSystemTable       = "System's page table"
	CheckHasContext        = "header context present"
	CheckHeaderContext     = "header context"
)

// check is one point: how much it matters, of which dumps it is made, what it needs
// to have passed before, and how it is made.
type check struct {
	name    string
	level   Level    // of what it finds
	readers []Reader // of LevelLimit: which
	// meant is why a dump of snap's own may have the finding; empty where none may.
	meant string
	needs []string // checks of LevelFail
	make  func(*verifier) (detail string, err error)
	// applies says whether the dump has what is to be checked; nil for always.
	// Those that need a check which doesn't apply are made.
	applies func(*verifier) bool
	// whole: without it the file is not even what was meant to be written.
	whole bool
}

// guestsOwn is why a dump may lack what the guest itself has damaged: its memory is
// dumped as it is.
const guestsOwn = "the guest's memory is so, and is dumped as it is"

// checks returns every point, in the order of the report: what no reader can do
// without, then what single readers demand, then what differs from snap's dumps.
func checks() []check {
	return []check{
		{name: CheckHeader, level: LevelFail, make: (*verifier).checkHeader},
		{name: CheckRuns, level: LevelFail, needs: []string{CheckHeader}, make: (*verifier).checkRuns, applies: (*verifier).hasRuns},
		{name: CheckBitmap, level: LevelFail, needs: []string{CheckHeader}, make: (*verifier).checkBitmap, applies: (*verifier).hasBitmap},
		{name: CheckKind, level: LevelFail, needs: []string{CheckHeader, CheckRuns, CheckBitmap}, make: (*verifier).checkKind},
		{name: CheckFileSize, level: LevelFail, needs: []string{CheckKind}, make: (*verifier).checkFileSize, whole: true},
		{name: CheckEncryption, level: LevelFail, needs: []string{CheckKind}, make: (*verifier).checkEncryption},
		{name: CheckDirectoryTable, level: LevelFail, needs: []string{CheckKind}, make: (*verifier).checkDirectoryTable},
		{name: CheckPageTables, level: LevelFail, needs: []string{CheckDirectoryTable}, make: (*verifier).checkPageTables, applies: (*verifier).holdsAll},
		{name: CheckKUSER, level: LevelFail, needs: []string{CheckDirectoryTable}, make: (*verifier).checkKUSER},
		{name: CheckKDBG, level: LevelFail, needs: []string{CheckDirectoryTable}, make: (*verifier).checkKDBG, applies: (*verifier).hasKDBG},
		{name: CheckListHeads, level: LevelFail, needs: []string{CheckKDBG}, make: (*verifier).checkListHeads, applies: (*verifier).hasKDBG},
		{name: CheckKernel, level: LevelFail, needs: []string{CheckKDBG, CheckKUSER}, make: (*verifier).checkKernel},
		{name: CheckModules, level: LevelFail, needs: []string{CheckKernel}, make: (*verifier).checkModules},
		{name: CheckProcesses, level: LevelFail, needs: []string{CheckKernel}, make: (*verifier).checkProcesses},

		{name: CheckMemflowRuns, level: LevelLimit, readers: []Reader{Memflow}, meant: "the guest's memory without what is left out has so many runs; --format bitmap has none", needs: []string{CheckKind}, make: (*verifier).checkMemflowRuns, applies: (*verifier).hasRuns},
		{name: CheckMemflowBitmap, level: LevelLimit, readers: []Reader{Memflow}, needs: []string{CheckKind}, make: (*verifier).checkMemflowBitmap, applies: (*verifier).hasBitmap},
		{name: CheckRadare2Bitmap, level: LevelLimit, readers: []Reader{Radare2}, meant: "full dumps have FDMP, which other readers demand", needs: []string{CheckKind}, make: (*verifier).checkRadare2Bitmap, applies: (*verifier).hasBitmap},
		{name: CheckLeechCoreBitmap, level: LevelLimit, readers: []Reader{LeechCore}, needs: []string{CheckKind}, make: (*verifier).checkLeechCoreBitmap, applies: (*verifier).hasBitmap},
		{name: CheckLeechCoreFirst, level: LevelLimit, readers: []Reader{LeechCore}, meant: "the bitmap of a guest with addresses so high takes the room", needs: []string{CheckKind}, make: (*verifier).checkLeechCoreFirst, applies: (*verifier).hasBitmap},
		{name: CheckBitmapBytes, level: LevelLimit, readers: []Reader{KdmpParser, Radare2}, needs: []string{CheckKind}, make: (*verifier).checkBitmapBytes, applies: (*verifier).hasBitmap},
		{name: CheckVolatilityBitmap, level: LevelLimit, readers: []Reader{Volatility2, Volatility3}, needs: []string{CheckKind}, make: (*verifier).checkVolatilityBitmap, applies: (*verifier).hasBitmap},
		{name: CheckKernelRange, level: LevelLimit, readers: []Reader{WinDbg}, meant: guestsOwn, needs: []string{CheckKernel}, make: (*verifier).checkKernelRange, applies: (*verifier).hasKDBG},
		{name: CheckNoKDBG, level: LevelLimit, readers: []Reader{WinDbg}, meant: guestsOwn, needs: []string{CheckKind}, make: (*verifier).checkNoKDBG, applies: (*verifier).hasNoKDBG},
		{name: CheckBugCheckData, level: LevelLimit, readers: []Reader{WinDbg}, meant: guestsOwn, needs: []string{CheckKDBG}, make: (*verifier).checkBugCheckData, applies: (*verifier).hasKDBG},
		{name: CheckMemoryBlock, level: LevelLimit, readers: []Reader{WinDbg}, meant: guestsOwn, needs: []string{CheckKernel}, make: (*verifier).checkMemoryBlock, applies: (*verifier).hasKDBG},
		{name: CheckProcessors, level: LevelLimit, readers: []Reader{WinDbg}, needs: []string{CheckKernel}, make: (*verifier).checkProcessors},
		{name: CheckContexts, level: LevelLimit, readers: []Reader{WinDbg}, needs: []string{CheckKernel}, make: (*verifier).checkContexts, applies: (*verifier).hasKDBG},
		{name: CheckContextMode, level: LevelLimit, readers: []Reader{WinDbg}, needs: []string{CheckKind}, make: (*verifier).checkContextMode},
		{name: CheckMxCsr, level: LevelLimit, readers: []Reader{KdmpParser}, needs: []string{CheckKind}, make: (*verifier).checkMxCsr, applies: (*verifier).isAMD64},

		{name: CheckTableBits, level: LevelNote, needs: []string{CheckDirectoryTable}, make: (*verifier).checkTableBits},
		{name: CheckRequiredDumpSpace, level: LevelNote, needs: []string{CheckKind}, make: (*verifier).checkRequiredDumpSpace},
		{name: CheckExceptionRecord, level: LevelNote, needs: []string{CheckKind}, make: (*verifier).checkExceptionRecord},
		{name: CheckOtherFields, level: LevelNote, needs: []string{CheckKind}, make: (*verifier).checkOtherFields},
		{name: CheckKernelDumpTables, level: LevelNote, needs: []string{CheckDirectoryTable}, make: (*verifier).checkPageTables, applies: (*verifier).isKernelDump},
		{name: CheckVersion, level: LevelNote, needs: []string{CheckKernel}, make: (*verifier).checkVersion},
		{name: CheckSystemTable, level: LevelNote, needs: []string{CheckProcesses}, make: (*verifier).checkSystemTable},
		{name: CheckHasContext, level: LevelNote, meant: "no processor's registers are of use to a debugger of 64 bits", needs: []string{CheckKind}, make: (*verifier).checkHasContext},
		{name: CheckHeaderContext, level: LevelNote, needs: []string{CheckKernel}, make: (*verifier).checkHeaderContext, applies: (*verifier).hasContexts},

		{name: CheckFrames, level: LevelFail, make: (*verifier).checkFrames, applies: (*verifier).wantsFrames, whole: true},
	}
}

// hasBitmap reports whether the dump is of a type with a bitmap. A header without
// runs to speak of is not even decoded.
func (v *verifier) hasBitmap() bool { return v.header != nil && v.header.DumpType.HasBitmap() }

func (v *verifier) hasRuns() bool { return !v.hasBitmap() }

// isKernelDump reports whether the dump holds the kernel's memory only.
func (v *verifier) isKernelDump() bool {
	return v.header != nil && v.header.DumpType == header.DumpTypeBitmapKernel
}

// isAMD64 reports whether the dump is of 64-bit Windows on x86-64.
func (v *verifier) isAMD64() bool {
	return v.header != nil && v.header.MachineImageType == header.MachineAMD64
}

func (v *verifier) holdsAll() bool { return !v.isKernelDump() }

// hasKDBG reports whether the header names a KDBG. Where the guest has none that can be
// used, snap leaves 0.
func (v *verifier) hasKDBG() bool { return v.header != nil && v.header.KdDebuggerDataBlock != 0 }

func (v *verifier) hasNoKDBG() bool { return !v.hasKDBG() }

func (v *verifier) wantsFrames() bool { return !v.opts.SkipFrames }
