package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// advertTable is a table as the protocol has it, or nearly.
type advertTable struct {
	magic              string
	version, entrySize uint16
	capacity           uint32
	sequence, count    uint32
	next               phys.VirtAddr
	entries            []byte
}

// goodTable is a table with the given entries and room for no more.
func goodTable(entries ...[]byte) advertTable {
	n := uint32(len(entries))
	return advertTable{"SNAPRMPG", 1, 0x20, n, 2, n, 0, bytes.Join(entries, nil)}
}

func (a advertTable) bytes() []byte {
	b := make([]byte, 0x20, 0x20+len(a.entries))
	copy(b, a.magic)
	binary.LittleEndian.PutUint16(b[0x08:], a.version)
	binary.LittleEndian.PutUint16(b[0x0A:], a.entrySize)
	binary.LittleEndian.PutUint32(b[0x0C:], a.capacity)
	binary.LittleEndian.PutUint32(b[0x10:], a.sequence)
	binary.LittleEndian.PutUint32(b[0x14:], a.count)
	binary.LittleEndian.PutUint64(b[0x18:], uint64(a.next))
	return append(b, a.entries...)
}

// entry is a KBUGCHECK_REMOVE_PAGES.
func entry(flags, code uint32, address, count uint64) []byte {
	b := make([]byte, 0x20)
	binary.LittleEndian.PutUint64(b, 0x1122_3344_5566_7788)
	binary.LittleEndian.PutUint32(b[0x08:], flags)
	binary.LittleEndian.PutUint32(b[0x0C:], code)
	binary.LittleEndian.PutUint64(b[0x10:], address)
	binary.LittleEndian.PutUint64(b[0x18:], count)
	return b
}

func writeBytes(t testing.TB, im *ntlab.Image, va phys.VirtAddr, b []byte) {
	t.Helper()
	if err := im.WriteVirt(va, b); err != nil {
		t.Fatalf("write %d bytes at %#x: %v", len(b), uint64(va), err)
	}
}

func pages(t testing.TB, im *ntlab.Image, n int) phys.VirtAddr {
	t.Helper()
	va, err := im.AllocPages(n)
	if err != nil {
		t.Fatal(err)
	}
	return va
}

// unmap makes a 4 KiB page of the lab one that is in a page file.
func unmap(t testing.TB, im *ntlab.Image, va phys.VirtAddr) {
	t.Helper()
	pte, ok := im.EntryAddr(va, 1)
	if !ok {
		t.Fatalf("%#x is not mapped by a page table", uint64(va))
	}
	if err := im.WritePhys(pte, binary.LittleEndian.AppendUint64(nil, 77<<32|0x80)); err != nil {
		t.Fatal(err)
	}
}

// sectionOf returns the address of a module's section.
func sectionOf(t testing.TB, im *ntlab.Image, m ntlab.Module, name string) phys.VirtAddr {
	t.Helper()
	image, err := guest.ReadImage(t.Context(), guest.NewAddressSpace(im, im.RAM(), im.Truth.DirectoryTableBase), m.Base)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(image.Sections, func(s guest.Section) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("%s has no section %s", m.Name, name)
	}
	return m.Base + phys.VirtAddr(image.Sections[i].VirtualAddress)
}

// Where in a driver's .text its export directory is put, and what is in it.
const (
	exportsRVA  = 0x1A00
	exportsSize = 0x40 // with the name
)

// export gives a driver an export directory with one name. An rva in the
// directory itself is a forwarder.
func export(t testing.TB, im *ntlab.Image, m ntlab.Module, name string, rva uint32) {
	t.Helper()
	d := make([]byte, 0x32, exportsSize+len(name))
	for off, v := range map[int]uint32{
		0x14: 1, 0x18: 1, // functions and names
		0x1C: exportsRVA + 0x28, 0x20: exportsRVA + 0x2C, 0x24: exportsRVA + 0x30, // their tables, and the ordinals'
		0x28: rva, 0x2C: exportsRVA + 0x32,
	} {
		binary.LittleEndian.PutUint32(d[off:], v)
	}
	writeBytes(t, im, m.Base+exportsRVA, append(append(d, name...), 0))
	var lfanew [4]byte
	if err := im.ReadVirt(m.Base+0x3C, lfanew[:]); err != nil {
		t.Fatal(err)
	}
	dir := binary.LittleEndian.AppendUint32(nil, exportsRVA)
	dir = binary.LittleEndian.AppendUint32(dir, exportsSize+uint32(len(name)))
	writeBytes(t, im, m.Base+phys.VirtAddr(binary.LittleEndian.Uint32(lfanew[:]))+0x18+0x70, dir)
}

// advertise makes a driver advertise a table in its data, and returns where.
func advertise(t testing.TB, im *ntlab.Image, m ntlab.Module, table advertTable) phys.VirtAddr {
	t.Helper()
	at := sectionOf(t, im, m, ".data")
	export(t, im, m, "SnapRemovePages", uint32(at-m.Base))
	writeBytes(t, im, at, table.bytes())
	return at
}

// drivers are those of the lab's modules that are no library and not the
// kernel.
func drivers(im *ntlab.Image) []ntlab.Module {
	var out []ntlab.Module
	for _, m := range im.Truth.Modules[1:] {
		if strings.HasSuffix(m.Name, ".sys") {
			out = append(out, m)
		}
	}
	return out
}

// adverts is Adverts of a lab guest that mem reads.
func adverts(t testing.TB, im *ntlab.Image, mem phys.Reader) *guest.Adverts {
	t.Helper()
	s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
	if err != nil {
		t.Fatalf("Discover failed: %v", err)
	}
	if mem != nil {
		s.Space = guest.NewAddressSpace(mem, im.RAM(), s.DirectoryTableBase.Value)
	}
	a, err := s.Adverts(t.Context())
	if err != nil {
		t.Fatalf("Adverts failed: %v", err)
	}
	return a
}

// problem is what a test wants to be told.
type problem struct {
	module   string
	at       phys.VirtAddr
	part     string // of the reason
	unstable bool
}

func checkAdverts(t testing.TB, a *guest.Adverts, tables []guest.AdvertTable, problems []problem) {
	t.Helper()
	if diff := cmp.Diff(tables, a.Tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	checkProblems(t, a, problems)
}

func checkProblems(t testing.TB, a *guest.Adverts, problems []problem) {
	t.Helper()
	if len(a.Problems) != len(problems) {
		t.Fatalf("%d problems; want %d: %+v", len(a.Problems), len(problems), a.Problems)
	}
	for i, p := range a.Problems {
		w := problems[i]
		if p.Module != w.module || p.At != w.at || !strings.Contains(p.Reason, w.part) || p.Unstable != w.unstable {
			t.Errorf("problem %d = %+v; want %+v", i, p, w)
		}
	}
}

// watched calls after with each read of guest memory, when its bytes are there.
type watched struct {
	phys.Reader
	after func(p []byte, at phys.Addr)
}

func (w *watched) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	err := w.Reader.ReadPhys(ctx, p, at)
	w.after(p, at)
	return err
}

// onRead calls do with the number of each read, from 0 on, of the bytes at va.
func onRead(t testing.TB, im *ntlab.Image, va phys.VirtAddr, do func(n int)) phys.Reader {
	t.Helper()
	pa, ok := im.Translate(va)
	if !ok {
		t.Fatalf("%#x is not mapped", uint64(va))
	}
	n := 0
	return &watched{im, func(p []byte, at phys.Addr) {
		if at <= pa && uint64(pa-at) < uint64(len(p)) {
			do(n)
			n++
		}
	}}
}
