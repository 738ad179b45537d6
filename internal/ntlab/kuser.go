package ntlab

import (
	"unicode/utf16"

	"snap/phys"
)

// Offsets in KUSER_SHARED_DATA (ntddk.h).
const (
	kuserTickMultiplier = 0x004
	kuserInterruptTime  = 0x008
	kuserSystemTime     = 0x014
	kuserTimeZoneBias   = 0x020
	kuserImageLow       = 0x02C
	kuserImageHigh      = 0x02E
	kuserSystemRoot     = 0x030
	kuserLargePage      = 0x244
	kuserBuildNumber    = 0x260
	kuserProductType    = 0x264
	kuserProductValid   = 0x268
	kuserArchitecture   = 0x26A
	kuserMajor          = 0x26C
	kuserMinor          = 0x270
	kuserFeatures       = 0x274
	kuserBootID         = 0x2C4
	kuserSuiteMask      = 0x2D0
	kuserDebugger       = 0x2D4
	kuserConsole        = 0x2D8
	kuserPhysicalPages  = 0x2E8
	kuserQPCFrequency   = 0x300
	kuserTickCount      = 0x320
	kuserCookie         = 0x330
	kuserProcessors     = 0x3C0
	kuserGroups         = 0x3C4
)

// placeKUSER makes KUSER_SHARED_DATA and maps it for the kernel; processes get
// it at its user address when they are made.
func (b *builder) placeKUSER() {
	r := stream(b.Config.Seed, 'u')
	page := must(b.alloc.page())
	b.kuser = page
	check(b.MapPage(b.Truth.DirectoryTableBase, b.machine().kuser, page, 1, kernelData))

	t := &b.Truth
	t.ProductType, t.SuiteMask = b.p.productType, b.p.suiteMask
	t.InterruptTime = r.between(60e7, 90*24*3600*1e7)
	// Some time from 2024 on, as FILETIME.
	t.SystemTime = 133485408000000000 + r.below(2*365*24*3600*1e7)
	u := make([]byte, phys.PageSize)
	le.PutUint32(u[kuserTickMultiplier:], 0x0FA00000)
	systemTime(u[kuserInterruptTime:], t.InterruptTime)
	systemTime(u[kuserSystemTime:], t.SystemTime)
	systemTime(u[kuserTimeZoneBias:], 0)
	le.PutUint16(u[kuserImageLow:], b.machine().pe)
	le.PutUint16(u[kuserImageHigh:], b.machine().pe)
	for i, c := range utf16.Encode([]rune(`C:\Windows`)) {
		le.PutUint16(u[kuserSystemRoot+2*i:], c)
	}
	le.PutUint32(u[kuserLargePage:], 2*mib)
	le.PutUint32(u[kuserProductType:], t.ProductType)
	u[kuserProductValid] = 1
	le.PutUint16(u[kuserArchitecture:], b.machine().architecture)
	le.PutUint32(u[kuserMajor:], b.p.major)
	le.PutUint32(u[kuserMinor:], b.p.minor)
	for _, f := range []int{2, 3, 6, 8, 10, 12, 13, 14} { // compare-exchange, MMX, SSE, RDTSC, …
		u[kuserFeatures+f] = 1
	}
	le.PutUint32(u[kuserSuiteMask:], t.SuiteMask)
	if b.Config.PlainKDBG {
		u[kuserDebugger] = 1
	}
	le.PutUint32(u[kuserConsole:], 1)
	var pages uint64
	for _, run := range t.Runs {
		pages += run.Pages
	}
	le.PutUint32(u[kuserPhysicalPages:], uint32(pages))
	le.PutUint64(u[kuserQPCFrequency:], 10_000_000)
	systemTime(u[kuserTickCount:], t.InterruptTime/156250) // a tick is 15.625 ms
	le.PutUint32(u[kuserCookie:], uint32(r.u64()))
	if b.p.kuser.buildNumber {
		le.PutUint32(u[kuserBuildNumber:], b.p.build)
	}
	if b.p.kuser.bootID {
		t.BootID = uint32(r.between(2, 400))
		le.PutUint32(u[kuserBootID:], t.BootID)
	}
	if b.p.kuser.processorCount {
		le.PutUint32(u[kuserProcessors:], uint32(b.Config.CPUs))
		u[kuserGroups] = byte((b.Config.CPUs + 63) / 64)
	}
	b.kuserNoise(u, r)
	b.put(b.machine().kuser, u)
}

// kuserNoise puts bytes that mean nothing where this kernel doesn't have later ones'
// fields: beyond the structure's end, and where fields of other names were before.
func (b *builder) kuserNoise(u []byte, r *rng) {
	if b.p.kuser.size == 0 {
		return
	}
	r.fill(u[b.p.kuser.size:])
	if !b.p.kuser.buildNumber {
		r.fill(u[kuserBuildNumber : kuserBuildNumber+4])
	}
	if !b.p.kuser.bootID {
		r.fill(u[kuserBootID : kuserBootID+4])
	}
}

// systemTime writes a KSYSTEM_TIME: low, high, high again.
func systemTime(p []byte, v uint64) {
	le.PutUint32(p, uint32(v))
	le.PutUint32(p[4:], uint32(v>>32))
	le.PutUint32(p[8:], uint32(v>>32))
}
