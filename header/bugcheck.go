package header

// Bug checks of dumps whose system had not crashed: Windows writes them while it
// runs (Microsoft's Bug Check Code Reference, where each says that it is of a live
// dump), and the first also stands in dumps that were taken from outside.
var liveBugChecks = map[uint32]bool{
	BugCheckLiveSystemDump: true,
	0x192:                  true,
	0x193:                  true,
	0x195:                  true,
	0x198:                  true,
}

// LiveBugCheck reports whether a dump with that bug check code is of a system that
// had not crashed.
func LiveBugCheck(code uint32) bool { return liveBugChecks[code] }

// BugCheckName returns what Windows calls a bug check; it is empty for those that
// are rare.
func BugCheckName(code uint32) string {
	if name := bugCheckNames[code]; name != "" {
		return name
	}
	return bugCheckNames[code&^bugCheckMinidump]
}

// SameBugCheck reports whether two codes are of the same bug check, whatever kind of
// dump the kernel wrote of it.
func SameBugCheck(a, b uint32) bool { return a&^bugCheckMinidump == b&^bugCheckMinidump }

// AttributeLiveDump is set in Attributes of a dump that Windows wrote while it ran
// (DUMP_FILE_ATTRIBUTES, LiveDumpGeneratedDump).
const AttributeLiveDump uint32 = 1 << 4

// bugCheckMinidump is set in the code of some bug checks by the kernel that writes
// a minidump of them: 0x1000007E is 0x7E.
const bugCheckMinidump = 0x10000000

// bugCheckNames are from Microsoft's Bug Check Code Reference (windows-driver-docs,
// bug-check-code-reference2.md).
var bugCheckNames = map[uint32]string{
	0x1:        "APC_INDEX_MISMATCH",
	0xA:        "IRQL_NOT_LESS_OR_EQUAL",
	0x18:       "REFERENCE_BY_POINTER",
	0x19:       "BAD_POOL_HEADER",
	0x1A:       "MEMORY_MANAGEMENT",
	0x1E:       "KMODE_EXCEPTION_NOT_HANDLED",
	0x24:       "NTFS_FILE_SYSTEM",
	0x3B:       "SYSTEM_SERVICE_EXCEPTION",
	0x4E:       "PFN_LIST_CORRUPT",
	0x50:       "PAGE_FAULT_IN_NONPAGED_AREA",
	0x51:       "REGISTRY_ERROR",
	0x5C:       "HAL_INITIALIZATION_FAILED",
	0x6B:       "PROCESS1_INITIALIZATION_FAILED",
	0x74:       "BAD_SYSTEM_CONFIG_INFO",
	0x77:       "KERNEL_STACK_INPAGE_ERROR",
	0x7A:       "KERNEL_DATA_INPAGE_ERROR",
	0x7B:       "INACCESSIBLE_BOOT_DEVICE",
	0x7E:       "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED",
	0x7F:       "UNEXPECTED_KERNEL_MODE_TRAP",
	0x80:       "NMI_HARDWARE_FAILURE",
	0x8E:       "KERNEL_MODE_EXCEPTION_NOT_HANDLED",
	0x9F:       "DRIVER_POWER_STATE_FAILURE",
	0xA5:       "ACPI_BIOS_ERROR",
	0xBE:       "ATTEMPTED_WRITE_TO_READONLY_MEMORY",
	0xC1:       "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION",
	0xC2:       "BAD_POOL_CALLER",
	0xC4:       "DRIVER_VERIFIER_DETECTED_VIOLATION",
	0xC5:       "DRIVER_CORRUPTED_EXPOOL",
	0xCA:       "PNP_DETECTED_FATAL_ERROR",
	0xCE:       "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS",
	0xD1:       "DRIVER_IRQL_NOT_LESS_OR_EQUAL",
	0xDA:       "SYSTEM_PTE_MISUSE",
	0xDE:       "POOL_CORRUPTION_IN_FILE_AREA",
	0xE2:       "MANUALLY_INITIATED_CRASH",
	0xEA:       "THREAD_STUCK_IN_DEVICE_DRIVER",
	0xEF:       "CRITICAL_PROCESS_DIED",
	0xF4:       "CRITICAL_OBJECT_TERMINATION",
	0xF7:       "DRIVER_OVERRAN_STACK_BUFFER",
	0xFC:       "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY",
	0x101:      "CLOCK_WATCHDOG_TIMEOUT",
	0x109:      "CRITICAL_STRUCTURE_CORRUPTION",
	0x10D:      "WDF_VIOLATION",
	0x116:      "VIDEO_TDR_FAILURE",
	0x119:      "VIDEO_SCHEDULER_INTERNAL_ERROR",
	0x124:      "WHEA_UNCORRECTABLE_ERROR",
	0x12B:      "FAULTY_HARDWARE_CORRUPTED_PAGE",
	0x133:      "DPC_WATCHDOG_VIOLATION",
	0x139:      "KERNEL_SECURITY_CHECK_FAILURE",
	0x13A:      "KERNEL_MODE_HEAP_CORRUPTION",
	0x144:      "BUGCODE_USB3_DRIVER",
	0x154:      "UNEXPECTED_STORE_EXCEPTION",
	0x161:      "LIVE_SYSTEM_DUMP",
	0x18B:      "SECURE_KERNEL_ERROR",
	0x1C8:      "MANUALLY_INITIATED_POWER_BUTTON_HOLD",
	0x1CA:      "SYNTHETIC_WATCHDOG_TIMEOUT",
	0xC000021A: "WINLOGON_FATAL_ERROR",
	0xC0000221: "STATUS_IMAGE_CHECKSUM_MISMATCH",
	0xDEADDEAD: "MANUALLY_INITIATED_CRASH1",
}
