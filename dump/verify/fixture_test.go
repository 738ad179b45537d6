package verify

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"snap/dump"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

const labMemory = 64 << 20

// lab is a lab guest and what a dump of it must say, from what the builder
// knows and not from what package guest finds.
type lab struct {
	*ntlab.Image
	plan dump.Plan
}

func newLab(t testing.TB, c ntlab.Config) *lab {
	t.Helper()
	if c.Memory == 0 {
		c.Memory = labMemory
	}
	if c.CPUs == 0 {
		c.CPUs = 3
	}
	c.Seed = 7
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatalf("build the guest %+v: %v", c, err)
	}
	l := &lab{Image: im}
	l.plan.Runs = im.Truth.Runs
	l.plan.Populated = im.Populated()
	if im.Truth.KDBGEncoded {
		l.overlay(t, "KDBG", im.Truth.KDBG, im.Truth.KDBGPlain)
	}
	regs := im.Registers()
	for _, p := range im.Truth.Processors {
		l.overlay(t, "CONTEXT", p.Context, header.ContextAMD64(&regs[p.VCPU]))
	}
	l.plan.Header = l.header(t, l.plan.Runs)
	return l
}

// remove leaves pages out of the dump: of type 1 while the runs fit, else of
// type 5.
func (l *lab) remove(t testing.TB, pages phys.Runs) {
	t.Helper()
	l.plan.Runs = phys.Runs(l.plan.Runs).Minus(pages)
	if len(l.plan.Runs) <= header.MaxRuns {
		l.plan.Header = l.header(t, l.plan.Runs)
		return
	}
	l.bitmap(t)
}

// bitmap makes the dump one of type 5.
func (l *lab) bitmap(t testing.TB) {
	t.Helper()
	b, err := header.InitializeBitmapDumpHeader(l.facts(), l.plan.Runs)
	if err != nil {
		t.Fatalf("make the header: %v", err)
	}
	l.plan.Header = b
}

// overlay places bytes at a virtual address, page by page.
func (l *lab) overlay(t testing.TB, what string, at phys.VirtAddr, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n := min(len(b), phys.PageSize-int(at.Offset()))
		pa, ok := l.Translate(at)
		if !ok {
			t.Fatalf("%s at %#x is not mapped", what, at)
		}
		l.plan.Overlays = append(l.plan.Overlays, dump.Overlay{At: pa, Data: b[:n], What: what})
		b, at = b[n:], at+phys.VirtAddr(n)
	}
}

func (l *lab) header(t testing.TB, runs []phys.Run) []byte {
	t.Helper()
	facts := l.facts()
	facts.Runs = phys.Know(runs, "the lab")
	b := make([]byte, header.Size64)
	if _, err := header.InitializeCrashDumpHeader(uint32(header.DumpTypeFull), 0, b, facts); err != nil {
		t.Fatalf("make the header: %v", err)
	}
	return b
}

// facts is what the header says, but for the runs.
func (l *lab) facts() *header.Facts {
	truth := &l.Truth
	regs := l.Registers()
	return &header.Facts{
		Machine:             phys.Know(header.MachineAMD64, "the lab"),
		NtBuildNumber:       phys.Know(0xF0000000|truth.Build, "the lab"),
		DirectoryTableBase:  phys.Know(truth.DirectoryTableBase, "the lab"),
		PfnDatabase:         phys.Know(truth.PfnDatabase, "the lab"),
		PsLoadedModuleList:  phys.Know(truth.PsLoadedModuleList, "the lab"),
		PsActiveProcessHead: phys.Know(truth.PsActiveProcessHead, "the lab"),
		KdDebuggerDataBlock: phys.Know(truth.KDBG, "the lab"),
		NumberProcessors:    phys.Know(uint32(len(truth.Processors)), "the lab"),
		BugCheckCode:        phys.Know(header.BugCheckLiveSystemDump, "the lab"),
		SystemTime:          phys.Know(truth.SystemTime, "the lab"),
		SystemUpTime:        phys.Know(truth.InterruptTime, "the lab"),
		ProductType:         phys.Know(truth.ProductType, "the lab"),
		SuiteMask:           phys.Know(truth.SuiteMask, "the lab"),
		BootID:              phys.Know(truth.BootID, "the lab"),
		Comment:             phys.Know("a test", "the lab"),
		Context:             phys.Know(header.ContextAMD64(&regs[truth.Processors[0].VCPU]), "the lab"),
	}
}

// write makes the dump.
func (l *lab) write(t testing.TB, o dump.Options) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := dump.Write(context.Background(), &out, l, &l.plan, o); err != nil {
		t.Fatalf("write the dump: %v", err)
	}
	return out.Bytes()
}

// fileOffset is where the expanded dump has a physical address.
func (l *lab) fileOffset(t testing.TB, at phys.Addr) int {
	t.Helper()
	off := len(l.plan.Header)
	for _, r := range l.plan.Runs {
		if at >= r.Base.Addr() && at < r.End().Addr() {
			return off + int(at-r.Base.Addr())
		}
		off += int(r.Size())
	}
	t.Fatalf("%#x is not in the dump", at)
	return 0
}

// at is where the expanded dump has a virtual address.
func (l *lab) at(t testing.TB, va phys.VirtAddr) int {
	t.Helper()
	pa, ok := l.Translate(va)
	if !ok {
		t.Fatalf("%#x is not mapped", va)
	}
	return l.fileOffset(t, pa)
}

// pointer reads a pointer in the guest.
func (l *lab) pointer(t testing.TB, va phys.VirtAddr) phys.VirtAddr {
	t.Helper()
	b := make([]byte, 8)
	if err := l.ReadVirt(va, b); err != nil {
		t.Fatal(err)
	}
	return phys.VirtAddr(binary.LittleEndian.Uint64(b))
}

// kdbg is a field of the plain KDBG.
func (l *lab) kdbg(off int) phys.VirtAddr {
	return phys.VirtAddr(binary.LittleEndian.Uint64(l.Truth.KDBGPlain[off:]))
}

// verified runs Verify on the bytes of a dump.
func verified(t testing.TB, b []byte, o Options) *Report {
	t.Helper()
	f, err := dump.NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("NewFile failed: %v", err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close failed: %v", err)
		}
	}()
	r, err := Verify(context.Background(), f, o)
	if err != nil {
		t.Fatalf("Verify failed: %v", err)
	}
	return r
}

// emptyFrame is the number of a frame of pages, of the default size, none of
// which is populated.
func (l *lab) emptyFrame(t testing.TB) int {
	t.Helper()
	const perFrame = dump.DefaultFrameSize / phys.PageSize
	used := map[int]bool{}
	page := 0
	for _, r := range l.plan.Runs {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			if l.plan.Populated.Has(pfn) {
				used[page/perFrame] = true
			}
			page++
		}
	}
	for i := range page / perFrame {
		if !used[i] {
			return i
		}
	}
	t.Fatal("every frame has populated pages")
	return 0
}
