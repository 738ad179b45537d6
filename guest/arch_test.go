package guest

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// TestSameTable names what may differ in a page table that leads to the same.
func TestSameTable(t *testing.T) {
	entry := func(v uint64) []byte {
		b := make([]byte, phys.PageSize)
		for i := range 8 {
			b[64+i] = byte(v >> (8 * i))
		}
		return b
	}
	same := fourLevels.SameTable
	const present = 0x8000_0000_1234_5863 // NX, dirty, accessed, writable, present
	got := map[string]bool{}
	for name, b := range map[string]uint64{
		"same": present, "accessed": present ^ 1<<5, "dirty": present ^ 1<<6, "age": present ^ 0x7ff<<52,
		"frame": present ^ 1<<12, "top of frame": present ^ 1<<51, "present": present ^ 1, "writable": present ^ 2,
		"large": present ^ 1<<7, "NX": present ^ 1<<63,
	} {
		got[name] = same(entry(present), entry(b)) && same(entry(b), entry(present))
	}
	got["age, not present"] = same(entry(0x840), entry(0x840^1<<6))
	got["a page and half a page"] = same(entry(present), entry(present)[:phys.PageSize/2])
	want := map[string]bool{
		"same": true, "accessed": true, "dirty": true, "age": true,
		"frame": false, "top of frame": false, "present": false, "writable": false, "large": false, "NX": false,
		"age, not present": false, "a page and half a page": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SameTable (-want +got):\n%s", diff)
	}
}

// TestArchs: the parts of each architecture agree.
func TestArchs(t *testing.T) {
	for _, a := range Archs() {
		for _, p := range a.Pagings() {
			testPaging(t, a, p)
		}
	}
	want := [][]any{
		{"amd64", uint16(0x8664), 8, "[4-level paging 5-level paging]", 0x4D0, RegisterNames{"RIP", "RSP", "CR3"}, 0x20},
		{"x86", uint16(0x14C), 4, "[PAE paging 32-bit paging]", 0x2CC, RegisterNames{"EIP", "ESP", "CR3"}, 0x14},
	}
	var got [][]any
	for _, a := range Archs() {
		got = append(got, []any{a.Name(), a.Machine(), a.PointerSize(), fmt.Sprint(a.Pagings()), a.ContextSize(), a.Registers(), a.RemovePagesSize()})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Archs (-want +got):\n%s", diff)
	}
}

func testPaging(t *testing.T, a *Arch, p *Paging) {
	if got := p.shift(p.top) + uint(bits.Len64(p.entries(p.top)-1)); got != p.addressBits || p.shift(1) != phys.PageShift {
		t.Errorf("%v: the tables translate %d bits; want %d", p, got, p.addressBits)
	}
	for _, va := range []phys.VirtAddr{p.kernelHalf(), a.kernelsLow, a.kernelsLast, a.KUSER(), ^phys.VirtAddr(0)} {
		if !p.canonical(va) || va < p.kernelHalf() || p.index(va, p.top) < p.kernelEntry() {
			t.Errorf("%v: %#x is no address of the kernel's half", p, uint64(va))
		}
	}
	if p.canonical(p.kernelHalf()-1) || !p.canonical(1<<(p.addressBits-1)-1) {
		t.Errorf("%v: canonical() disagrees with the kernel's half", p)
	}
	if n := p.index(a.kernelsLast, p.top) - p.index(a.kernelsLow, p.top) + 1; a.pointer == 8 && n > kernelSlots {
		t.Errorf("%v: kernels are in %d entries of the root; want at most %d", p, n, kernelSlots)
	}
}
