package ntlab

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
)

//go:generate go run ./cmd/genprofiles

// kernelRow is one kernel of the tables in testdata/windows, as the generator takes
// it over. Where the tables say nothing the profile has a value of the lab's own.
type kernelRow struct {
	profile  string // the profile's name
	row      string // version in kernels.csv
	x86      bool   // of 32-bit Windows
	source   string // the row's repository, commit and path
	build    uint32
	kdbgSize uint32
	pdb      string // GUID and age as symbol servers spell them; "" where the row is no single kernel

	image                  string // version in kernel_images.csv that the next two are of; "" for none
	sizeOfImage, timestamp uint32

	processorBlock int  // entries of KiProcessorBlock, 0 for not known
	swizzle        bool // software entries have a SwizzleBit
	rvas           map[string]uint32
	fields         map[string]uint32 // by column of kernels.csv

	borrowsFrom string            // version of another row
	borrowed    map[string]uint32 // columns of that one that this one lacks
}

// field returns a size or offset, 0 where the row has none.
func (k *kernelRow) field(column string) uint32 {
	if v, ok := k.fields[column]; ok {
		return v
	}
	return k.borrowed[column]
}

// has reports whether a structure has a field.
func (k *kernelRow) has(column string) bool {
	_, own := k.fields[column]
	_, borrowed := k.borrowed[column]
	return own || borrowed
}

// guid returns the PDB's GUID in the byte order of a CodeView record, and its age.
func (k *kernelRow) guid() (guid [16]byte, age uint32, err error) {
	const digits = 32
	if len(k.pdb) <= digits {
		return guid, 0, fmt.Errorf("profile %s: PDB %q has no GUID and age", k.profile, k.pdb)
	}
	b, err := hex.DecodeString(k.pdb[:digits])
	if err != nil {
		return guid, 0, fmt.Errorf("profile %s: %w", k.profile, err)
	}
	n, err := strconv.ParseUint(k.pdb[digits:], 16, 32)
	le.PutUint32(guid[:], binary.BigEndian.Uint32(b))
	le.PutUint16(guid[4:], binary.BigEndian.Uint16(b[4:]))
	le.PutUint16(guid[6:], binary.BigEndian.Uint16(b[6:]))
	copy(guid[8:], b[8:])
	return guid, uint32(n), err
}

// Builds from which on kernels differ in what the tables don't say.
const (
	buildVista   = 6000
	buildWin7    = 7600  // processor groups, start block in low memory
	buildWin8    = 9200  // the KDBG is kept encoded
	build81      = 9600  // 47 bits of user addresses
	buildWin10   = 10240 // version 10.0
	buildRS1     = 14393 // the system's regions are at random places
	buildLA57    = 20231 // there is an image for 5-level paging
	buildAligned = 17134 // bases are multiples of 2 MiB; before they were seen not to be (kernel_bases.csv)
)

// versions are what kernels say of themselves besides their build.
var versions = []struct {
	from, major, minor uint32
}{{buildWin10, 10, 0}, {build81, 6, 3}, {buildWin8, 6, 2}, {buildWin7, 6, 1}, {buildVista, 6, 0}, {3790, 5, 2}, {0, 5, 1}}

// servers are the builds of which a server is in the tables, or which came as
// servers alone.
var servers = map[uint32]bool{3790: true, 14393: true, 17763: true, 20348: true}

// profileOf makes the profile of a kernel of the tables.
func profileOf(k *kernelRow) *profile {
	old := k.build < buildWin7
	p := &profile{
		name: k.profile, row: k, build: k.build,
		productType: 1, suiteMask: 0x110,
		buildLab:  fmt.Sprintf("%d.1.amd64fre.lab", k.build),
		userLimit: 0x800000000000, systemStart: 0xFFFF800000000000,
		processes: win10.processes, modules: win10.modules, exports: win10.exports,

		largePages:  k.build >= buildAligned,
		fixedLayout: k.build < buildRS1,
		lowStub:     !old,
		swizzle:     k.swizzle,
		encrypts:    k.build >= buildWin8,
		processor:   processorOf(k),
		process:     processOf(k),
		thread:      threadOf(k),
		selectors: kdbgSelectors{
			kernelCode: selKernelCode, kernelData: selKernelData, userCode: selUserCode, userData: selUserData,
			tss: selTSS, compatCode: 0x23, compatTEB: selUserTEB, pcrSelf: pcrSelf,
		},
		kuser: kuserLayout{
			size:           k.field("KUSER_size"),
			buildNumber:    k.has("KUSER_NtBuildNumber"),
			bootID:         k.has("KUSER_BootId"),
			processorCount: k.has("KUSER_ActiveProcessorCount"),
		},
	}
	for _, v := range versions {
		if k.build >= v.from {
			p.major, p.minor = v.major, v.minor
			break
		}
	}
	if servers[k.build] {
		p.productType, p.suiteMask = 3, 0x112
	}
	if p.fixedLayout {
		p.selfMapSlot = ws2003.selfMapSlot
	}
	if k.build < build81 {
		p.userLimit, p.systemStart = ws2003.userLimit, ws2003.systemStart
	}
	if old {
		p.processes, p.modules = ws2003.processes, ws2003.modules
		p.exports, p.dataExports = ws2003.exports, ws2003.dataExports
	}
	if k.x86 {
		p.narrow()
	}
	p.kdbg = kdbgOf(k, p)
	p.sizeOfImage, p.sections = sectionsOf(k, p)
	return p
}

func processorOf(k *kernelRow) processorLayout {
	l := processorLayout{
		sizePCR: k.field("KPCR_size"), sizePRCB: k.field("KPRCB_size"), containedPRCB: k.field("KPCR_Prcb"),
		number: k.field("KPRCB_Number"), numberSize: 4, group: k.field("KPRCB_Group"),
		specialRegisters: k.field("KPRCB_ProcessorState"),
		stateContext:     k.field("KPRCB_ProcessorState") + k.field("KPROCESSOR_STATE_ContextFrame"),
		contextPointer:   k.field("KPRCB_Context"),
		vendorString:     k.field("KPRCB_VendorString"), mhz: k.field("KPRCB_MHz"),
		kernelDTB:     k.field("KPRCB_KernelDirectoryTableBase"),
		maxProcessors: k.processorBlock,
		cr4:           win10.processor.cr4,
		// From 17763 on the tables have no such variable.
		bootPCRInImage: k.build < 17763,
	}
	if k.build < buildWin7 {
		l.numberSize, l.cr4 = 1, ws2003.processor.cr4
	}
	if l.maxProcessors == 0 { // as the nearest kernels that say it
		switch {
		case k.build < buildWin7:
			l.maxProcessors = ws2003.processor.maxProcessors
		case k.build < buildWin8:
			l.maxProcessors = 256
		case k.build < 17763:
			l.maxProcessors = 640
		default:
			l.maxProcessors = 2048
		}
	}
	return l
}

func processOf(k *kernelRow) processLayout {
	return processLayout{
		size: k.field("EPROCESS_size"), directoryTableBase: k.field("KPROCESS_DirectoryTableBase"),
		userDirectoryTable: k.field("KPROCESS_UserDirectoryTableBase"),
		uniqueProcessID:    k.field("EPROCESS_UniqueProcessId"), links: k.field("EPROCESS_ActiveProcessLinks"),
		peb: k.field("EPROCESS_Peb"), parentID: k.field("EPROCESS_InheritedFromUniqueProcessId"),
		imageFileName: k.field("EPROCESS_ImageFileName"), createTime: k.field("EPROCESS_CreateTime"),
		threadListHead: k.field("EPROCESS_ThreadListHead"), objectType: 3,
	}
}

// apcProcess is KAPC_STATE.Process in 64-bit kernels.
const apcProcess = 0x20

func threadOf(k *kernelRow) threadLayout {
	return threadLayout{
		size: k.field("ETHREAD_size"), initialStack: k.field("KTHREAD_InitialStack"), stackLimit: k.field("KTHREAD_StackLimit"),
		kernelStack: k.field("KTHREAD_KernelStack"), stackBase: k.field("KTHREAD_StackBase"),
		apcProcess: k.field("KTHREAD_ApcState") + apcProcess, teb: k.field("KTHREAD_Teb"), state: k.field("KTHREAD_State"),
		nextProcessor: k.field("KTHREAD_NextProcessor"),
	}
}
