package vmstate

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

var recordings = []struct {
	name    string
	machine string
	blocks  map[string]uint64
}{
	{"qemu-7.2-pc", "pc-i440fx-7.2", nil},
	{"qemu-10.0-q35", "pc-q35-10.0", nil},
	{"qemu-10.0-virtio-mem", "pc-q35-10.0", map[string]uint64{"0000:00:05.0/vm0": 64 << 20}},
}

// recording returns a compressed file of testdata.
func recording(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordings(t *testing.T) {
	for _, rec := range recordings {
		t.Run(rec.name, func(t *testing.T) {
			b := recording(t, rec.name+".stream")
			// The sink is larger than the stream.
			s, err := Parse(append(slices.Clip(b), make([]byte, 1<<20)...), Options{MaxRAM: 80 << 20, MaxCPUs: 2})
			if err != nil {
				t.Fatal(err)
			}
			if s.Machine != rec.machine || s.Size != int64(len(b)) {
				t.Errorf("Parse() = machine %q, %d bytes; want %q, %d", s.Machine, s.Size, rec.machine, len(b))
			}
			want := map[string]uint64{
				"pc.ram": 4 << 20, "/rom@etc/acpi/tables": 128 << 10, "pc.rom": 128 << 10, "pc.bios": 64 << 10,
				"/rom@etc/table-loader": 4 << 10, "/rom@etc/acpi/rsdp": 4 << 10,
			}
			for k, v := range rec.blocks {
				want[k] = v
			}
			got := map[string]uint64{}
			var pages uint64
			for _, b := range s.Blocks {
				got[b.Name] = b.Size
				for _, k := range []PageKind{Zero, Data} {
					for r := range b.Runs(k) {
						pages += r.Pages
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("blocks (-want +got):\n%s", d)
			}
			if pages != s.Data+s.Zero {
				t.Errorf("runs have %d pages; want %d data, %d zero", pages, s.Data, s.Zero)
			}
			checkRegisters(t, rec.name, s.CPUs)
			checkRAM(t, s.Block("pc.ram"), recording(t, rec.name+".ram"))
			checkFXSAVE(t, s)

			cpus, err := ParseDevices(recording(t, rec.name+".devices"), Options{})
			if err != nil {
				t.Fatal(err)
			}
			checkRegisters(t, rec.name, cpus)
		})
	}
}

// checkRegisters holds processors against QEMU's monitor and, for what it
// doesn't show, against the program that the guest runs.
func checkRegisters(t *testing.T, name string, got []phys.Registers) {
	t.Helper()
	want := monitorRegisters(t, "testdata/"+name+".registers.txt")
	if len(want) != 2 {
		t.Fatalf("monitor shows %d processors; want 2", len(want))
	}
	for i := range want {
		want[i].HasLSTAR, want[i].LSTAR = true, 0xfffff80200445680|uint64(i)<<24
		want[i].HasKernelGSBase = true
	}
	want[0].KernelGSBase = 0x4200334000
	want[1].KernelGSBase = 0xfffff80101223000 // after swapgs
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("registers (-want +got):\n%s", d)
	}
}

// checkRAM holds a block against physical memory. The BIOS lies over the last
// 128 KiB of the first MiB.
func checkRAM(t *testing.T, b *Block, want []byte) {
	t.Helper()
	if uint64(len(want)) != b.Size {
		t.Fatalf("memory of %d bytes; block has %d", len(want), b.Size)
	}
	for i := range b.Size / 4096 {
		if i >= 0xa0 && i < 0x100 {
			continue
		}
		page, kind := b.Page(i)
		wantPage := want[i*4096:][:4096]
		switch {
		case kind == Data && bytes.Equal(page, wantPage):
		case kind == Zero && page == nil && bytes.Equal(wantPage, make([]byte, 4096)):
		default:
			t.Errorf("Page(%#x) = %d bytes, kind %d; differs from memory", i, len(page), kind)
		}
	}
}

// checkFXSAVE holds the FPU state against the image that each processor itself
// laid into memory with FXSAVE64.
func checkFXSAVE(t *testing.T, s *Stream) {
	t.Helper()
	page, kind := s.Block("pc.ram").Page(5)
	if kind != Data {
		t.Fatalf("page of the FXSAVE images is of kind %d", kind)
	}
	for i := range s.CPUs {
		b := page[0x200*i:]
		want := phys.FPU{
			FCW: binary.LittleEndian.Uint16(b), FSW: binary.LittleEndian.Uint16(b[2:]), FTW: b[4],
			MXCSR: binary.LittleEndian.Uint32(b[24:]),
		}
		for j := range want.ST {
			copy(want.ST[j][:], b[32+16*j:])
		}
		for j := range want.XMM {
			copy(want.XMM[j][:], b[160+16*j:])
		}
		if d := cmp.Diff(want, s.CPUs[i].FPU); d != "" {
			t.Errorf("FPU of processor %d (-want +got):\n%s", i, d)
		}
		if top := want.FSW >> 11 & 7; top == 0 {
			t.Errorf("TOP of processor %d is 0, which shows nothing", i)
		}
	}
}

// TestVirtioMem looks at a block of which blocks 0, 1 and 3 of 2 MiB are plugged,
// with a page written in each of the last two.
func TestVirtioMem(t *testing.T) {
	s, err := Parse(recording(t, "qemu-10.0-virtio-mem.stream"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := s.Block("0000:00:05.0/vm0")
	got := map[PageKind][]Range{}
	for _, k := range []PageKind{Absent, Zero, Data} {
		got[k] = slices.Collect(b.Runs(k))
	}
	want := map[PageKind][]Range{
		Absent: {{1024, 512}, {2048, 16384 - 2048}},
		Zero:   {{0, 512 + 5}, {512 + 6, 512 - 6}, {1536, 511}},
		Data:   {{512 + 5, 1}, {2047, 1}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("runs (-want +got):\n%s", d)
	}
	for i, want := range map[uint64]uint64{512 + 5: 0x1122334455667788, 2047: 0x99aabbccddeeff00} {
		page, _ := b.Page(i)
		if page == nil || binary.LittleEndian.Uint64(page) != want {
			t.Errorf("Page(%d) doesn't begin with %#x", i, want)
		}
	}
}
