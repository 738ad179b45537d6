package ntlab

import (
	"maps"
	"slices"
)

// Unknown is the profile of a Windows that nobody has seen: the newest of the tables
// with another build number, a longer KDBG, and structures that have grown, so that what
// Windows moves about from one version to the next is in none of the places of known
// ones.
const Unknown = "nt-unknown"

// unknownRow makes its row.
func unknownRow() kernelRow {
	i := slices.IndexFunc(kernelRows, func(k kernelRow) bool { return k.x86 })
	k := kernelRows[i-1]
	k.profile, k.row, k.build, k.kdbgSize, k.pdb = Unknown, "none", 31337, 0x3E8, ""
	k.source = "made up"
	k.fields = maps.Clone(k.fields)
	grow := func(by uint32, columns ...string) {
		for _, c := range columns {
			if v, ok := k.fields[c]; ok {
				k.fields[c] = v + by
			} else if v := k.borrowed[c]; v != 0 {
				k.fields[c] = v + by
			}
		}
	}
	grow(0x3000, "KPCR_size", "KPRCB_size", "KPRCB_KernelDirectoryTableBase")
	grow(0x0A40, "KPRCB_Context")
	grow(0x0090, "EPROCESS_UniqueProcessId", "EPROCESS_ActiveProcessLinks", "EPROCESS_ImageFileName", "EPROCESS_Peb",
		"EPROCESS_InheritedFromUniqueProcessId", "EPROCESS_CreateTime", "EPROCESS_ThreadListHead")
	grow(0x0140, "EPROCESS_size")
	return k
}
