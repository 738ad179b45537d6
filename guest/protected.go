package guest

import (
	"context"

	"snap/phys"
)

// Reasons of some kinds of protected pages.
const (
	ProtectedPageTable   = "page table"
	ProtectedKUSER       = "KUSER_SHARED_DATA"
	ProtectedImageHeader = "kernel image headers" // and its directories
)

// ProtectedPages are pages of one kind without which a debugger could not open
// a dump.
type ProtectedPages struct {
	Reason string // what they are, such as ProtectedPageTable
	Pages  phys.Runs
}

// Protected returns the pages that must be in every dump of the guest, so that
// a debugger can open it and list modules, processes and processors, whatever
// else is left out. The sets are disjoint, lie in the RAM map and are in a fixed
// order; one that is empty is left out.
//
// They are the page tables of the kernel's half of the System process's address
// space, headers and directories of the kernel image, the KDBG,
// KUSER_SHARED_DATA, the processors' KPCR, KPRCB and CONTEXT, the lists of
// modules and of processes with their heads and entries, and the kernel's
// variables that lead to them.
//
// Page tables are read anew, each of the upper three levels once and those of
// the lowest level, which are nearly all, not at all: some hundred pages for a
// guest of usual size. What the guest broke is protected as far as it can be
// followed.
//
// With an error the result is what was found until then, and nothing should be
// left out of the dump by the guest's word: ctx ended, memory could not be
// read, or the guest has more page tables than its RAM makes plausible, which
// is an error of class ErrMalformed.
func (s *System) Protected(ctx context.Context) ([]ProtectedPages, error) {
	mem := &recordingReader{watchedReader: watchedReader{Reader: s.Space.mem}}
	v := s.through(mem)
	v.Processors, v.Warnings = nil, nil

	var out []ProtectedPages
	var all phys.Runs
	add := func(reason string, pages phys.Runs) {
		if pages = pages.Minus(all); len(pages) > 0 {
			out = append(out, ProtectedPages{Reason: reason, Pages: pages})
			all = all.Union(pages)
		}
	}
	tables, tablesErr := v.Space.kernelTables(ctx)
	add(ProtectedPageTable, tables)
	mem.recorded()
	for _, p := range protections {
		if ctx.Err() != nil {
			break
		}
		p.read(ctx, s, v)
		add(p.what, mem.recorded())
	}
	if err := mem.failure(ctx, "look for pages to protect"); err != nil {
		return out, err
	}
	return out, tablesErr
}

// recordingReader keeps which pages were read. It is for one goroutine.
type recordingReader struct {
	watchedReader
	runs []phys.Run
}

func (r *recordingReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r.record(p, at)
	return r.watchedReader.ReadPhys(ctx, p, at)
}

// ReadAnew implements phys.Caching.
func (r *recordingReader) ReadAnew(ctx context.Context, p []byte, at phys.Addr) error {
	r.record(p, at)
	return r.watchedReader.ReadAnew(ctx, p, at)
}

func (r *recordingReader) record(p []byte, at phys.Addr) {
	run, ok := phys.RunOf(at, uint64(len(p)))
	if n := len(r.runs); ok && (n == 0 || r.runs[n-1] != run) {
		r.runs = append(r.runs, run)
	}
}

// recorded returns the pages that were read since the last call.
func (r *recordingReader) recorded() phys.Runs {
	pages, err := phys.NewRuns(r.runs...)
	if err != nil {
		panic("internal error: read outside of RAM: " + err.Error())
	}
	r.runs = nil
	return pages
}

// protections are the kinds of pages other than page tables. What reading a
// thing as a debugger does it touches, page tables on the way included, is what
// must be there: v is the system, its memory watched. s is what was found when
// the guest was discovered.
//
// A guest that is broken somewhere has nothing there to protect, so the
// functions don't fail.
var protections = []struct {
	what string
	read func(ctx context.Context, s, v *System)
}{
	{"KDBG", func(ctx context.Context, s, v *System) {
		v.touch(ctx, s.KDBG.At, len(s.KDBG.Block))
	}},
	{ProtectedKUSER, func(ctx context.Context, _, v *System) {
		v.touch(ctx, v.Space.arch.kuser, phys.PageSize)
	}},
	{ProtectedImageHeader, touchKernelImage},
	{"KPCR and KPRCB", func(ctx context.Context, s, v *System) {
		for _, p := range s.Processors {
			v.touch(ctx, p.KPCR, s.kpcrSize())
		}
	}},
	{"processor context", func(ctx context.Context, s, v *System) {
		for _, p := range s.Processors {
			if p.ContextAt != 0 {
				v.touch(ctx, p.ContextAt, v.Space.arch.contextSize)
			}
		}
	}},
	{"PsLoadedModuleList", func(ctx context.Context, _, v *System) {
		_ = v.eachModule(ctx, func(loadedModule) error { return nil })
	}},
	{"PsActiveProcessHead", func(ctx context.Context, s, v *System) {
		if s.PsInitialSystemProcess != 0 {
			v.touch(ctx, s.PsInitialSystemProcess, s.KDBG.eprocessSize())
		}
		_, _ = v.Processes(ctx)
	}},
	{"kernel variable", func(ctx context.Context, _, v *System) {
		_, _, _ = systemProcess(ctx, v.Space, v.Kernel, &v.KDBG)
		_ = v.fill(ctx)
		_ = v.fillProcessors(ctx)
	}},
}

// maxTouched bounds a range that the guest gives the length of. The export
// directory of a kernel is some 100 KiB.
const maxTouched = 1 << 20

// touch reads those of n bytes at at that are in memory.
func (s *System) touch(ctx context.Context, at phys.VirtAddr, n int) {
	if _, ok := at.Add(uint64(n)); !ok {
		return
	}
	// The only error is that of ctx.
	_, _ = readSparse(ctx, s.Space, make([]byte, min(n, maxTouched)), at)
}

// touchKernelImage reads what says that the image is the kernel and where it
// has its variables. It leaves v with the image as it is now.
func touchKernelImage(ctx context.Context, _, v *System) {
	im, err := ReadImage(ctx, v.Space, v.Kernel.Base)
	if err != nil {
		return
	}
	v.Kernel = im
	v.touch(ctx, im.Base, int(min(im.headerBytes, im.Size)))
	for _, d := range []directory{im.exports, im.debug} {
		v.touch(ctx, im.Base+phys.VirtAddr(d.rva), int(d.size))
	}
	_, _ = im.CodeView(ctx)
	isKernel(ctx, v.Space.arch, im)
}

// kpcrSizeMost is more than a KPCR with its KPRCB has in any Windows: the largest
// KPRCB known has 0xCF00 bytes, in build 26100 (public ntkrnlmp symbols).
const kpcrSizeMost = 0x10000

// kpcrSize returns how many bytes of a processor's KPCR and the KPRCB inside
// the KDBG says there are: at most 128 KiB, by the width of its fields.
func (s *System) kpcrSize() int {
	k := &s.KDBG
	if len(k.Block) == 0 {
		return kpcrSizeMost
	}
	prcb := k.offset(kdbgOffsetPcrContainedPrcb, s.Space.arch.layout.kpcrPrcb) + int(k.u64(kdbgSizePrcb))
	return max(k.offset(kdbgSizePcr, 0), prcb)
}
