package guest

// Field is a field of a structure in guest memory.
type Field struct {
	Name   string // as its public header spells it
	Offset int    // bytes from the start of the structure
	Size   int    // bytes
}

// kdbgHeaderSize is the size of the block's DBGKD_DEBUG_DATA_HEADER64.
const kdbgHeaderSize = 0x18

// Fields of a KDBG that this package uses.
var (
	kdbgFlink                            = Field{"List.Flink", 0x000, 8}
	kdbgBlink                            = Field{"List.Blink", 0x008, 8}
	kdbgOwnerTag                         = Field{"OwnerTag", 0x010, 4}
	kdbgSize                             = Field{"Size", 0x014, 4}
	kdbgKernBase                         = Field{"KernBase", 0x018, 8}
	kdbgPsLoadedModuleList               = Field{"PsLoadedModuleList", 0x048, 8}
	kdbgPsActiveProcessHead              = Field{"PsActiveProcessHead", 0x050, 8}
	kdbgKiBugcheckData                   = Field{"KiBugcheckData", 0x088, 8}
	kdbgMmPfnDatabase                    = Field{"MmPfnDatabase", 0x0C0, 8}
	kdbgMmPageSize                       = Field{"MmPageSize", 0x138, 8}
	kdbgKiProcessorBlock                 = Field{"KiProcessorBlock", 0x218, 8}
	kdbgMmPhysicalMemoryBlock            = Field{"MmPhysicalMemoryBlock", 0x270, 8}
	kdbgSizeEProcess                     = Field{"SizeEProcess", 0x2A8, 2}
	kdbgOffsetEprocessPeb                = Field{"OffsetEprocessPeb", 0x2AA, 2}
	kdbgOffsetEprocessDirectoryTableBase = Field{"OffsetEprocessDirectoryTableBase", 0x2AE, 2}
	kdbgSizePrcb                         = Field{"SizePrcb", 0x2B0, 2}
	kdbgOffsetPrcbProcStateContext       = Field{"OffsetPrcbProcStateContext", 0x2BC, 2}
	kdbgOffsetPrcbNumber                 = Field{"OffsetPrcbNumber", 0x2BE, 2}
	kdbgSizePcr                          = Field{"SizePcr", 0x2E0, 2}
	kdbgOffsetPcrSelfPcr                 = Field{"OffsetPcrSelfPcr", 0x2E2, 2}
	kdbgOffsetPcrContainedPrcb           = Field{"OffsetPcrContainedPrcb", 0x2E6, 2}
	kdbgOffsetPrcbContext                = Field{"OffsetPrcbContext", 0x338, 2}
	kdbgPteBase                          = Field{"PteBase", 0x360, 8}
)

// kdbgFields is KDDEBUGGER_DATA64 of wdbgexts.h (Debugging Tools for Windows
// SDK) in full: the fields of 64-bit kernels from Windows 2000 on, the newest
// last. What a block has is said by its Size.
var kdbgFields = []Field{
	kdbgFlink,
	kdbgBlink,
	kdbgOwnerTag,
	kdbgSize,
	kdbgKernBase,
	{"BreakpointWithStatus", 0x020, 8},
	{"SavedContext", 0x028, 8},
	{"ThCallbackStack", 0x030, 2},
	{"NextCallback", 0x032, 2},
	{"FramePointer", 0x034, 2},
	{"PaeEnabled", 0x036, 2},
	{"KiCallUserMode", 0x038, 8},
	{"KeUserCallbackDispatcher", 0x040, 8},
	kdbgPsLoadedModuleList,
	kdbgPsActiveProcessHead,
	{"PspCidTable", 0x058, 8},
	{"ExpSystemResourcesList", 0x060, 8},
	{"ExpPagedPoolDescriptor", 0x068, 8},
	{"ExpNumberOfPagedPools", 0x070, 8},
	{"KeTimeIncrement", 0x078, 8},
	{"KeBugCheckCallbackListHead", 0x080, 8},
	kdbgKiBugcheckData,
	{"IopErrorLogListHead", 0x090, 8},
	{"ObpRootDirectoryObject", 0x098, 8},
	{"ObpTypeObjectType", 0x0A0, 8},
	{"MmSystemCacheStart", 0x0A8, 8},
	{"MmSystemCacheEnd", 0x0B0, 8},
	{"MmSystemCacheWs", 0x0B8, 8},
	kdbgMmPfnDatabase,
	{"MmSystemPtesStart", 0x0C8, 8},
	{"MmSystemPtesEnd", 0x0D0, 8},
	{"MmSubsectionBase", 0x0D8, 8},
	{"MmNumberOfPagingFiles", 0x0E0, 8},
	{"MmLowestPhysicalPage", 0x0E8, 8},
	{"MmHighestPhysicalPage", 0x0F0, 8},
	{"MmNumberOfPhysicalPages", 0x0F8, 8},
	{"MmMaximumNonPagedPoolInBytes", 0x100, 8},
	{"MmNonPagedSystemStart", 0x108, 8},
	{"MmNonPagedPoolStart", 0x110, 8},
	{"MmNonPagedPoolEnd", 0x118, 8},
	{"MmPagedPoolStart", 0x120, 8},
	{"MmPagedPoolEnd", 0x128, 8},
	{"MmPagedPoolInformation", 0x130, 8},
	kdbgMmPageSize,
	{"MmSizeOfPagedPoolInBytes", 0x140, 8},
	{"MmTotalCommitLimit", 0x148, 8},
	{"MmTotalCommittedPages", 0x150, 8},
	{"MmSharedCommit", 0x158, 8},
	{"MmDriverCommit", 0x160, 8},
	{"MmProcessCommit", 0x168, 8},
	{"MmPagedPoolCommit", 0x170, 8},
	{"MmExtendedCommit", 0x178, 8},
	{"MmZeroedPageListHead", 0x180, 8},
	{"MmFreePageListHead", 0x188, 8},
	{"MmStandbyPageListHead", 0x190, 8},
	{"MmModifiedPageListHead", 0x198, 8},
	{"MmModifiedNoWritePageListHead", 0x1A0, 8},
	{"MmAvailablePages", 0x1A8, 8},
	{"MmResidentAvailablePages", 0x1B0, 8},
	{"PoolTrackTable", 0x1B8, 8},
	{"NonPagedPoolDescriptor", 0x1C0, 8},
	{"MmHighestUserAddress", 0x1C8, 8},
	{"MmSystemRangeStart", 0x1D0, 8},
	{"MmUserProbeAddress", 0x1D8, 8},
	{"KdPrintCircularBuffer", 0x1E0, 8},
	{"KdPrintCircularBufferEnd", 0x1E8, 8},
	{"KdPrintWritePointer", 0x1F0, 8},
	{"KdPrintRolloverCount", 0x1F8, 8},
	{"MmLoadedUserImageList", 0x200, 8},
	{"NtBuildLab", 0x208, 8},
	{"KiNormalSystemCall", 0x210, 8},
	kdbgKiProcessorBlock,
	{"MmUnloadedDrivers", 0x220, 8},
	{"MmLastUnloadedDriver", 0x228, 8},
	{"MmTriageActionTaken", 0x230, 8},
	{"MmSpecialPoolTag", 0x238, 8},
	{"KernelVerifier", 0x240, 8},
	{"MmVerifierData", 0x248, 8},
	{"MmAllocatedNonPagedPool", 0x250, 8},
	{"MmPeakCommitment", 0x258, 8},
	{"MmTotalCommitLimitMaximum", 0x260, 8},
	{"CmNtCSDVersion", 0x268, 8},
	kdbgMmPhysicalMemoryBlock,
	{"MmSessionBase", 0x278, 8},
	{"MmSessionSize", 0x280, 8},
	{"MmSystemParentTablePage", 0x288, 8},
	{"MmVirtualTranslationBase", 0x290, 8},
	{"OffsetKThreadNextProcessor", 0x298, 2},
	{"OffsetKThreadTeb", 0x29A, 2},
	{"OffsetKThreadKernelStack", 0x29C, 2},
	{"OffsetKThreadInitialStack", 0x29E, 2},
	{"OffsetKThreadApcProcess", 0x2A0, 2},
	{"OffsetKThreadState", 0x2A2, 2},
	{"OffsetKThreadBStore", 0x2A4, 2},
	{"OffsetKThreadBStoreLimit", 0x2A6, 2},
	kdbgSizeEProcess,
	kdbgOffsetEprocessPeb,
	{"OffsetEprocessParentCID", 0x2AC, 2},
	kdbgOffsetEprocessDirectoryTableBase,
	kdbgSizePrcb,
	{"OffsetPrcbDpcRoutine", 0x2B2, 2},
	{"OffsetPrcbCurrentThread", 0x2B4, 2},
	{"OffsetPrcbMhz", 0x2B6, 2},
	{"OffsetPrcbCpuType", 0x2B8, 2},
	{"OffsetPrcbVendorString", 0x2BA, 2},
	kdbgOffsetPrcbProcStateContext,
	kdbgOffsetPrcbNumber,
	{"SizeEThread", 0x2C0, 2},
	{"KdPrintCircularBufferPtr", 0x2C8, 8},
	{"KdPrintBufferSize", 0x2D0, 8},
	{"KeLoaderBlock", 0x2D8, 8},
	kdbgSizePcr,
	kdbgOffsetPcrSelfPcr,
	{"OffsetPcrCurrentPrcb", 0x2E4, 2},
	kdbgOffsetPcrContainedPrcb,
	{"OffsetPcrInitialBStore", 0x2E8, 2},
	{"OffsetPcrBStoreLimit", 0x2EA, 2},
	{"OffsetPcrInitialStack", 0x2EC, 2},
	{"OffsetPcrStackLimit", 0x2EE, 2},
	{"OffsetPrcbPcrPage", 0x2F0, 2},
	{"OffsetPrcbProcStateSpecialReg", 0x2F2, 2},
	{"GdtR0Code", 0x2F4, 2},
	{"GdtR0Data", 0x2F6, 2},
	{"GdtR0Pcr", 0x2F8, 2},
	{"GdtR3Code", 0x2FA, 2},
	{"GdtR3Data", 0x2FC, 2},
	{"GdtR3Teb", 0x2FE, 2},
	{"GdtLdt", 0x300, 2},
	{"GdtTss", 0x302, 2},
	{"Gdt64R3CmCode", 0x304, 2},
	{"Gdt64R3CmTeb", 0x306, 2},
	{"IopNumTriageDumpDataBlocks", 0x308, 8},
	{"IopTriageDumpDataBlocks", 0x310, 8},
	{"VfCrashDataBlock", 0x318, 8},
	{"MmBadPagesDetected", 0x320, 8},
	{"MmZeroedPageSingleBitErrorsDetected", 0x328, 8},
	{"EtwpDebuggerData", 0x330, 8},
	kdbgOffsetPrcbContext,
	{"OffsetPrcbMaxBreakpoints", 0x33A, 2},
	{"OffsetPrcbMaxWatchpoints", 0x33C, 2},
	{"OffsetKThreadStackLimit", 0x340, 4},
	{"OffsetKThreadStackBase", 0x344, 4},
	{"OffsetKThreadQueueListEntry", 0x348, 4},
	{"OffsetEThreadIrpList", 0x34C, 4},
	{"OffsetPrcbIdleThread", 0x350, 2},
	{"OffsetPrcbNormalDpcState", 0x352, 2},
	{"OffsetPrcbDpcStack", 0x354, 2},
	{"OffsetPrcbIsrStack", 0x356, 2},
	{"SizeKDPC_STACK_FRAME", 0x358, 2},
	{"OffsetKPriQueueThreadListHead", 0x35A, 2},
	{"OffsetKThreadWaitReason", 0x35C, 2},
	kdbgPteBase,
	{"RetpolineStubFunctionTable", 0x368, 8},
	{"RetpolineStubFunctionTableSize", 0x370, 4},
	{"RetpolineStubOffset", 0x374, 4},
	{"RetpolineStubSize", 0x378, 4},
	{"OffsetEProcessMmHotPatchContext", 0x37C, 2},
	{"OffsetKThreadShadowStackLimit", 0x380, 4},
	{"OffsetKThreadShadowStackBase", 0x384, 4},
	{"ShadowStackEnabled", 0x388, 8},
	{"PointerAuthMask", 0x390, 8},
	{"OffsetPrcbExceptionStack", 0x398, 2},
	{"PointerIgnoreBits", 0x3A0, 8},
}
