package qemu

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv/file"
	"snap/hv/hvtest"
	"snap/phys"
)

// TestRegistersAgainstCore holds the monitor's text against the notes of a core
// that the same QEMU wrote at the same moment. The guest, whose first processor
// is in compatibility or 64-bit mode with a value of its own in every register,
// had been stopped.
func TestRegistersAgainstCore(t *testing.T) {
	for _, name := range []string{"compat", "xmm", "ymm"} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRegisters(readFixture(t, name+".registers"), false)
			if err != nil {
				t.Fatalf("parseRegisters failed: %v", err)
			}
			cpus, err := decodeQMP[[]vcpu](readFixture(t, name+".cpus.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := sameCPUs(got, cpus); err != nil {
				t.Errorf("sameCPUs failed: %v", err)
			}
			src, err := file.Open(t.Context(), "testdata/"+name+".core", file.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer src.Close()
			want, err := src.Registers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("parseRegisters found %d processors; the core has %d", len(got), len(want))
			}
			for i := range got {
				if diff := hvtest.RegistersDiff(got[i], want[i]); diff != "" {
					t.Errorf("processor %d (-monitor +core):\n%s", i, diff)
				}
			}
		})
	}
}

// TestRegistersBeyondCore has what a core's notes lack: the guest's program says
// what they must be.
func TestRegistersBeyondCore(t *testing.T) {
	for _, name := range []string{"compat", "xmm", "ymm"} {
		t.Run(name, func(t *testing.T) {
			regs, err := parseRegisters(readFixture(t, name+".registers"), false)
			if err != nil {
				t.Fatalf("parseRegisters failed: %v", err)
			}
			got := regs[0]
			if want := name == "compat"; got.Halves != want {
				t.Errorf("Halves = %v; want %v", got.Halves, want)
			}
			// EFER: SCE, LME, LMA, NXE.
			if !got.HasEFER || got.EFER != 0xd01 {
				t.Errorf("EFER = %v, %#x; want 0xd01", got.HasEFER, got.EFER)
			}
			wantDR := [8]uint64{0: 0x11223344, 3: 0x55667788, 6: 0xffff0ff0, 7: 0x400}
			if !got.HasDebug || got.DR != wantDR {
				t.Errorf("DR = %v, %#x; want %#x", got.HasDebug, got.DR, wantDR)
			}
			if got.HasKernelGSBase || got.HasLSTAR {
				t.Errorf("HasKernelGSBase, HasLSTAR = %v, %v; want false: the monitor has neither", got.HasKernelGSBase, got.HasLSTAR)
			}
			want := phys.FPU{FCW: 0x37f, FSW: 5 << 11, FTW: 0xe0, MXCSR: 0x1f20}
			// The program loaded pi, 1 and log2(e), in that order.
			want.ST[0] = f80(0xb8aa3b295c17f0bc, 0x3fff)
			want.ST[1] = f80(1<<63, 0x3fff)
			want.ST[2] = f80(0xc90fdaa22168c235, 0x4000)
			n := 16
			if name == "compat" {
				n = 8
			}
			for i := range n {
				binary.LittleEndian.PutUint64(want.XMM[i][:], 0x1000000000000000+uint64(i))
				binary.LittleEndian.PutUint64(want.XMM[i][8:], 0x2000000000000000+uint64(i))
			}
			if diff := cmp.Diff(want, got.FPU); !got.HasFPU || diff != "" {
				t.Errorf("FPU (-want +got), has = %v:\n%s", got.HasFPU, diff)
			}
		})
	}
}

// TestRegistersUnderKVM: there QEMU shows the x87 registers as an FXSAVE image has
// them.
func TestRegistersUnderKVM(t *testing.T) {
	regs, err := parseRegisters(readFixture(t, "xmm.registers"), true)
	if err != nil {
		t.Fatal(err)
	}
	// The program's values, which TCG keeps in its registers 5 to 7.
	var want [8][10]byte
	want[5] = f80(0xb8aa3b295c17f0bc, 0x3fff)
	want[6] = f80(1<<63, 0x3fff)
	want[7] = f80(0xc90fdaa22168c235, 0x4000)
	if diff := cmp.Diff(want, regs[0].FPU.ST); diff != "" {
		t.Errorf("ST (-want +got):\n%s", diff)
	}
}

func f80(mantissa uint64, exponent uint16) (b [10]byte) {
	binary.LittleEndian.PutUint64(b[:], mantissa)
	binary.LittleEndian.PutUint16(b[8:], exponent)
	return b
}

// TestRegistersZMM: with AVX-512 the monitor shows 32 registers of 8 words.
func TestRegistersZMM(t *testing.T) {
	text := readFixture(t, "xmm.registers")
	i := strings.Index(text, "XMM00")
	j := strings.Index(text[i:], "CPU#1") + i
	var z strings.Builder
	z.WriteString("Opmask00=0000000000000000 Opmask01=0000000000000000\r\n")
	for n := range 32 {
		z.WriteString("ZMM" + string(rune('0'+n/10)) + string(rune('0'+n%10)) + "=" +
			strings.Repeat("eeeeeeeeeeeeeeee ", 6) + "2222222222222222 111111111111111" + string(rune('0'+n%8)) + "\r\n")
	}
	regs, err := parseRegisters(text[:i]+z.String()+"\r\n"+text[j:], false)
	if err != nil {
		t.Fatalf("parseRegisters failed: %v", err)
	}
	for n, x := range regs[0].FPU.XMM {
		lo, hi := binary.LittleEndian.Uint64(x[:]), binary.LittleEndian.Uint64(x[8:])
		if want := 0x1111111111111110 + uint64(n%8); lo != want || hi != 0x2222222222222222 {
			t.Errorf("XMM%d = %#x %#x; want 0x2222222222222222 %#x", n, hi, lo, want)
		}
	}
}

func TestRegistersRefuses(t *testing.T) {
	good := readFixture(t, "xmm.registers")
	tests := []struct{ name, text string }{
		{"empty", ""},
		{"unknown command", "unknown command: 'info registers'\r\n"},
		{"no CR3", strings.Replace(good, "CR3=", "CRX=", 1)},
		{"no R12", strings.Replace(good, "R12=", "Q12=", 1)},
		{"no GS", strings.Replace(good, "GS =0010", "XS =0010", 1)},
		{"no IDT", strings.Replace(good, "IDT=", "XDT=", 1)},
		{"twice", strings.Replace(good, "RBX=", "RAX=", 1)},
		{"vector too short", strings.Replace(good, "XMM03=2000000000000003 ", "XMM03=", 1)},
		{"cut off", good[:len(good)/8]},
	}
	for _, tt := range tests {
		if tt.text == good {
			t.Fatalf("%s: the case changes nothing", tt.name)
		}
		if _, err := parseRegisters(tt.text, false); err == nil {
			t.Errorf("parseRegisters of a dump with %s succeeded", tt.name)
		}
	}
}

func TestSameCPUs(t *testing.T) {
	regs := []phys.Registers{{CPU: 0}, {CPU: 1}}
	if err := sameCPUs(regs, []vcpu{{Index: 1}, {Index: 0}}); err != nil {
		t.Errorf("sameCPUs of the same in another order = %v; want nil", err)
	}
	for _, cpus := range [][]vcpu{{{Index: 0}}, {{Index: 0}, {Index: 2}}, {{Index: 0}, {Index: 1}, {Index: 2}}} {
		if err := sameCPUs(regs, cpus); err == nil {
			t.Errorf("sameCPUs(0 1, %v) = nil; want an error", cpus)
		}
	}
}

func FuzzRegisters(f *testing.F) {
	for _, name := range []string{"compat", "xmm", "ymm"} {
		f.Add(readFixture(f, name+".registers"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		regs, err := parseRegisters(text, false)
		if err == nil && len(regs) == 0 {
			t.Error("parseRegisters returned no processor and no error")
		}
	})
}
