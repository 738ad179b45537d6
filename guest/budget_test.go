package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"snap/internal/ntlab"
	"snap/phys"
)

func TestBudgetShares(t *testing.T) {
	b := newBudget(4)
	limit := uint64(maxKernels)
	if err := b.spend(workKernels, limit/4); err != nil {
		t.Fatalf("the first share: %v", err)
	}
	err := b.spend(workKernels, 1)
	if want := "ended after 16 kernel images"; !errors.Is(err, errBudget) || err.Error() != want {
		t.Errorf("beyond the first share: %v; want %q", err, want)
	}
	if err := b.spend(workKernels, ^uint64(0)); !errors.Is(err, errBudget) {
		t.Errorf("2^64-1 of a kind: %v; want errBudget", err)
	}
	b.next()
	b.next() // what the second share leaves is the third's
	if err := b.spend(workKernels, limit/2); err != nil {
		t.Errorf("two more shares: %v", err)
	}
	for range 10 {
		b.next()
	}
	if got := b.limit(workKernels); got != limit {
		t.Errorf("limit of all shares = %d; want %d", got, limit)
	}
	for kind, l := range budgets {
		if l.limit < 5 || l.what == "" {
			t.Errorf("budget %d is %+v; want a limit that can be shared, and what is counted", kind, l)
		}
	}
}

func TestPageSet(t *testing.T) {
	var s pageSet
	pages := []phys.PFN{0, 1, 63, 64, 511, 512, 1 << 39}
	for _, p := range pages {
		if s.has(p) || !s.add(p) || s.add(p) || !s.has(p) {
			t.Errorf("page %#x is not in the set after it was added, or was before", uint64(p))
		}
	}
	s.remove(64)
	s.remove(1 << 20)
	for _, p := range pages {
		if got := s.has(p); got != (p != 64) {
			t.Errorf("has(%#x) = %v", uint64(p), got)
		}
	}
}

// pagedMemory is virtual memory of which page i is page i%len(b) of b, so that
// all of it is few pages of memory.
type pagedMemory struct {
	flatMemory
	read int // bytes
}

func (m *pagedMemory) Extent(_ context.Context, va phys.VirtAddr) (phys.Extent, error) {
	off := uint64(va-m.base) % uint64(len(m.b))
	return phys.Extent{Residence: phys.Resident, At: phys.Addr(off), Size: uint64(len(m.b)) - off}, nil
}

var _ extents = (*pagedMemory)(nil)

func (m *pagedMemory) ReadVirt(ctx context.Context, p []byte, at phys.VirtAddr) error {
	m.read += len(p)
	for len(p) > 0 {
		off := uint64(at-m.base) % uint64(len(m.b))
		n := copy(p, m.b[off:])
		p, at = p[n:], at+phys.VirtAddr(n)
	}
	return nil
}

// hostileHeads fills 2 MiB so that each 8 bytes begin as an encoded KDBG of the
// kernel at base does.
func hostileHeads(base phys.VirtAddr) []byte {
	head := binary.LittleEndian.AppendUint64(nil, 0x380<<32|kdbgTag)
	head = binary.LittleEndian.AppendUint64(head, uint64(base))
	e := encodeAsWindows(head, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, 0xFFFF_F804_7C60_1234)
	b := make([]byte, 2<<20)
	for i := 0; i < len(b); i += len(e) {
		copy(b[i:], e)
	}
	return b
}

// Memory in which every position may begin an encoded block is searched once,
// however large the image says that it is, and a block behind it is found.
func TestKDBGSearchIsLinear(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	base := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	encoded := encodeAsWindows(plain, 11, 12, 13)
	const at = 0x1F_E008
	for _, block := range [][]byte{nil, plain, encoded} {
		mem := &pagedMemory{flatMemory: flatMemory{base, hostileHeads(base)}}
		copy(mem.b[at:], block)
		s := newKDBGScan(mem, base, maxImageSize, newBudget(1))
		if err := s.scan(t.Context(), base, maxImageSize); err != nil {
			t.Fatalf("scan failed: %v", err)
		}
		if s.positions < len(mem.b)/8-2*len(plain) {
			t.Errorf("only %d of %d positions begin as a block; the memory is not hostile", s.positions, len(mem.b)/8)
		}
		if most := len(mem.b) + 2*len(plain); mem.read > most || s.positions > most/8 {
			t.Errorf("%d bytes were read and %d positions inspected; want each of %d bytes once", mem.read, s.positions, len(mem.b))
		}
		if (len(s.found) == 1 && s.found[0].At == base+at) != (block != nil) {
			t.Errorf("found %v; want the block at %#x: %v", s.found, uint64(base+at), block != nil)
		}
	}
}

// Sound blocks without number end the search, and it says so.
func TestManyKDBGsEndTheSearch(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	base := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	mem := flatMemory{base, make([]byte, 1<<20)}
	for i := 0; i+len(plain) <= len(mem.b); i += len(plain) {
		copy(mem.b[i:], plain)
	}
	found, err := findKDBG(t.Context(), &Image{Base: base, Size: realImageSize, mem: mem}, newBudget(1))
	if len(found) != maxKDBGs || !errors.Is(err, errBudget) || !strings.Contains(err.Error(), "ended after 64 debugger data blocks") {
		t.Errorf("%d blocks, %v; want the first %d and errBudget", len(found), err, maxKDBGs)
	}
}

// hostileSpace is a page table that maps KUSER_SHARED_DATA and, through tables
// that lead to each other, whatever a test puts where kernels are.
type hostileSpace struct {
	t    *testing.T
	im   *ntlab.Image
	root phys.Addr
}

func newHostileSpace(t *testing.T, im *ntlab.Image) *hostileSpace {
	h := &hostileSpace{t: t, im: im}
	h.root = h.page()
	slot := fourLevels.index(KUSERAddress, 4)
	h.entry(h.root, slot, h.read(im.Truth.DirectoryTableBase, slot))
	return h
}

func (h *hostileSpace) page() phys.Addr {
	pages, err := h.im.AllocPhys(1)
	if err != nil {
		h.t.Fatal(err)
	}
	return pages[0].Addr()
}

func (h *hostileSpace) read(table phys.Addr, i uint64) uint64 {
	var b [8]byte
	if err := h.im.ReadPhys(h.t.Context(), b[:], table+phys.Addr(8*i)); err != nil {
		h.t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (h *hostileSpace) entry(table phys.Addr, i, e uint64) {
	if err := h.im.WritePhys(table+phys.Addr(8*i), binary.LittleEndian.AppendUint64(nil, e)); err != nil {
		h.t.Fatal(err)
	}
}

// kernels makes both slots of the kernel's range lead to table, a table of level 3.
func (h *hostileSpace) kernels(table phys.Addr) {
	h.entry(h.root, 0x1F0, uint64(table)|3)
	h.entry(h.root, 0x1F1, uint64(table)|3)
}

// same makes a table all of whose entries are e.
func (h *hostileSpace) same(e uint64) phys.Addr {
	at := h.page()
	for i := range fourLevels.entries(1) {
		h.entry(at, i, e)
	}
	return at
}

// hostileSpaces are address spaces in which a search for kernels could go on for
// ever, and the limit that ends it, empty if it ends by itself.
var hostileSpaces = map[string]struct {
	build func(h *hostileSpace)
	ended string
}{
	"a table of itself at all levels": {func(h *hostileSpace) {
		at := h.page()
		for i := range fourLevels.entries(1) {
			h.entry(at, i, uint64(at)|3)
		}
		h.kernels(at)
	}, ""},
	"one page everywhere": {func(h *hostileSpace) {
		h.kernels(h.same(uint64(h.same(uint64(h.same(uint64(h.page())|3))|3)) | 3))
	}, ""},
	"the running kernel, mapped at each 2 MiB": {func(h *hostileSpace) {
		at, ok := h.im.Translate(h.im.Truth.KernelBase)
		if !ok {
			h.t.Fatal("the kernel is not mapped")
		}
		h.kernels(h.same(uint64(h.same(uint64(at)&^(2<<20-1)|0x83)) | 3))
	}, "kernel images"},
	"the running kernel, mapped whole time and again": {func(h *hostileSpace) {
		pd := h.page()
		size := uint64(h.im.Truth.KernelSize+2<<20-1) / (2 << 20)
		for i := range fourLevels.entries(1) {
			at, ok := h.im.Translate(h.im.Truth.KernelBase&^(2<<20-1) + phys.VirtAddr(i%(size+1)*(2<<20)))
			if ok && i%(size+1) < size {
				h.entry(pd, i, uint64(at)&^(2<<20-1)|0x83)
			}
		}
		h.kernels(h.same(uint64(pd) | 3))
	}, "kernel images"},
	"each page a header of no image": {func(h *hostileSpace) {
		page := h.page()
		header := make([]byte, phys.PageSize)
		copy(header, "MZ")
		header[dosLfanew] = dosHeaderSize
		copy(header[dosHeaderSize:], "PE\x00\x00")
		if err := h.im.WritePhys(page, header); err != nil {
			h.t.Fatal(err)
		}
		h.kernels(h.same(uint64(h.same(uint64(h.same(uint64(page)|3))|3)) | 3))
	}, "image headers"},
}

// What a hostile address space costs is bounded, and another finder still finds
// the guest. Work is counted, not timed.
func TestHostileSpacesEnd(t *testing.T) {
	for name, tt := range hostileSpaces {
		t.Run(name, func(t *testing.T) {
			im, err := ntlab.Build(ntlab.Config{Seed: 150, Memory: 256 << 20, CPUs: 1})
			if err != nil {
				t.Fatal(err)
			}
			h := newHostileSpace(t, im)
			tt.build(h)
			cpu := im.Registers()[0]
			cpu.CR3 = uint64(h.root)

			r := &countedReader{Reader: im}
			var tried attempts
			d := newDiscovery(AMD64(), &watchedReader{Reader: r}, im.RAM(), []phys.Registers{cpu}, len(finders()), &tried)
			if err := d.run(t.Context(), finders()); err != nil || d.found == nil {
				t.Fatalf("run = %v, %v, tried %v; want the guest", d.found, err, tried.list)
			}
			if d.found.DirectoryTableBase.Value != im.Truth.DirectoryTableBase || d.found.Witness == "vCPU 0 CR3" {
				t.Errorf("DirectoryTableBase = %#x by %s; want %#x by another finder",
					uint64(d.found.DirectoryTableBase.Value), d.found.Witness, uint64(im.Truth.DirectoryTableBase))
			}
			first := d.found.Attempts[0].String()
			if !strings.Contains(first, tt.ended) || strings.Contains(first, "ended after") != (tt.ended != "") {
				t.Errorf("first attempt %q; want it ended after so many %q", first, tt.ended)
			}
			for kind := range workKinds {
				if spent := d.budget.spent[kind]; spent > budgets[kind].limit {
					t.Errorf("%d %s; want at most %d", spent, budgets[kind].what, budgets[kind].limit)
				}
			}
			if limit := 4 * uint64(256<<20); r.bytes > limit {
				t.Errorf("%d bytes were read; want at most %d", r.bytes, limit)
			}
		})
	}
}

// countedReader counts the bytes that are read.
type countedReader struct {
	phys.Reader
	bytes uint64
}

func (r *countedReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r.bytes += uint64(len(p))
	return r.Reader.ReadPhys(ctx, p, at)
}

// Where nothing finds the guest, a search that ended at its limit is told, and
// the verdict says that not everything was looked at.
func TestEndedSearchIsTold(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 151, Memory: 256 << 20, CPUs: 1, NoLowStub: true})
	if err != nil {
		t.Fatal(err)
	}
	h := newHostileSpace(t, im)
	hostileSpaces["the running kernel, mapped whole time and again"].build(h)
	cpu := im.Registers()[0]
	cpu.CR3 = uint64(h.root)
	s, err := discover(t.Context(), im, im.RAM(), []phys.Registers{cpu}, []finder{findRegisters, findLowStub}, Options{})
	none, ok := errors.AsType[*NotFoundError](err)
	if s != nil || !ok || !none.Ended || !strings.Contains(err.Error(), "the search ended at its limits") ||
		!strings.Contains(none.Attempts[0].String(), "ended after") {
		t.Errorf("discover = %v, %+v; want a *NotFoundError that says that the search ended", s, err)
	}
}

// Any number of processors in user mode, each in a process of its own, don't use
// up what finders after the first may do.
func TestManyUserModeProcessors(t *testing.T) {
	for _, monitor := range []bool{false, true} {
		im, err := ntlab.Build(ntlab.Config{
			Seed: 152, Memory: 512 << 20, CPUs: 40, KPTI: true, UserMode: true, MonitorRegisters: monitor,
		})
		if err != nil {
			t.Fatal(err)
		}
		// Each has a page table of its own, as if there were as many processes.
		cpus := append([]phys.Registers(nil), im.Registers()...)
		page := make([]byte, phys.PageSize)
		for i := range cpus {
			h := &hostileSpace{t: t, im: im}
			own := h.page()
			if err := im.ReadPhys(t.Context(), page, cpus[i].PageTableRoot()); err != nil {
				t.Fatal(err)
			}
			if err := im.WritePhys(own, page); err != nil {
				t.Fatal(err)
			}
			cpus[i].CR3 = uint64(own)
		}
		s, err := Discover(t.Context(), im, im.RAM(), cpus)
		if err != nil || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
			t.Errorf("monitor registers %v: Discover = %v, %v; want the guest", monitor, s, err)
		}
	}
}

// Words that are alike, of which most of memory is, never look like an encoded block:
// the hash of 0 is among those of blocks for one kernel base in 37.
func TestAlikeWordsAreNoKDBG(t *testing.T) {
	hit := 0
	for i := range phys.VirtAddr(500) {
		f := newEncodedForm(0xFFFF_F800_0000_0000 + i<<21)
		if f.may(0, 0) || f.may(^uint64(0), ^uint64(0)) {
			t.Fatalf("base %#x: two words that are alike may be of a block", f.kernBase)
		}
		if f.filter[0]&1 != 0 {
			hit++
		}
	}
	if hit == 0 {
		t.Error("no base has the hash of 0; the test tests nothing")
	}
}

func BenchmarkKDBGScanHostile(b *testing.B) {
	base := phys.VirtAddr(0xFFFF_F800_0000_0000)
	mem := flatMemory{base, hostileHeads(base)}
	b.SetBytes(int64(len(mem.b)))
	for b.Loop() {
		s := newKDBGScan(mem, base, realImageSize, newBudget(1))
		if err := s.scan(b.Context(), base, uint64(len(mem.b))); err != nil || len(s.found) != 0 {
			b.Fatal(err, s.found)
		}
	}
}
