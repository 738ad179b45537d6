package vmstate

import (
	"encoding/binary"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"snap/phys"
)

var (
	monitorSegment = regexp.MustCompile(`^(\w\w\w?) *=(\w{4}) (\w{16}) (\w{8}) (\w{8})`)
	monitorTable   = regexp.MustCompile(`^([GI]DT)= +(\w{16}) (\w{8})`)
	monitorX87     = regexp.MustCompile(`FPR(\d)=(\w{16}) (\w{4})`)
	monitorXMM     = regexp.MustCompile(`XMM(\d\d)=(\w{16}) (\w{16})`)
	monitorPlain   = regexp.MustCompile(`(\w+) ?=(\w+)`)
)

// monitorRegisters reads the text that `info registers -a` gave of a guest in
// 64-bit mode under TCG, where FPRn is register n and not ST(n).
func monitorRegisters(t *testing.T, file string) []phys.Registers {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	hex := func(s string) uint64 {
		v, err := strconv.ParseUint(s, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	var out []phys.Registers
	for i, one := range strings.Split(string(text), "CPU#")[1:] {
		r := phys.Registers{CPU: i, HasEFER: true, HasDebug: true, HasFPU: true}
		plain := map[string]uint64{}
		var x87 [8][10]byte
		segments := map[string]*phys.Segment{
			"ES": &r.ES, "CS": &r.CS, "SS": &r.SS, "DS": &r.DS, "FS": &r.FS, "GS": &r.GS, "LDT": &r.LDT, "TR": &r.TR,
		}
		tables := map[string]*phys.DescriptorTable{"GDT": &r.GDT, "IDT": &r.IDT}
		for line := range strings.Lines(one) {
			if m := monitorSegment.FindStringSubmatch(line); m != nil {
				*segments[m[1]] = phys.Segment{
					Selector: uint16(hex(m[2])), Base: hex(m[3]), Limit: uint32(hex(m[4])), Flags: uint32(hex(m[5])),
				}
			} else if m := monitorTable.FindStringSubmatch(line); m != nil {
				*tables[m[1]] = phys.DescriptorTable{Base: hex(m[2]), Limit: uint32(hex(m[3]))}
			} else if ms := monitorX87.FindAllStringSubmatch(line, -1); ms != nil {
				for _, m := range ms {
					b := binary.LittleEndian.AppendUint64(nil, hex(m[2]))
					copy(x87[hex(m[1])][:], binary.LittleEndian.AppendUint16(b, uint16(hex(m[3]))))
				}
			} else if ms := monitorXMM.FindAllStringSubmatch(line, -1); ms != nil {
				for _, m := range ms {
					n, _ := strconv.Atoi(m[1])
					b := binary.LittleEndian.AppendUint64(nil, hex(m[3]))
					copy(r.FPU.XMM[n][:], binary.LittleEndian.AppendUint64(b, hex(m[2])))
				}
			} else {
				for _, m := range monitorPlain.FindAllStringSubmatch(line, -1) {
					plain[m[1]] = hex(m[2])
				}
			}
		}
		r.RAX, r.RBX, r.RCX, r.RDX = plain["RAX"], plain["RBX"], plain["RCX"], plain["RDX"]
		r.RSI, r.RDI, r.RBP, r.RSP = plain["RSI"], plain["RDI"], plain["RBP"], plain["RSP"]
		r.R8, r.R9, r.R10, r.R11 = plain["R8"], plain["R9"], plain["R10"], plain["R11"]
		r.R12, r.R13, r.R14, r.R15 = plain["R12"], plain["R13"], plain["R14"], plain["R15"]
		r.RIP, r.RFLAGS = plain["RIP"], plain["RFL"]
		r.CR0, r.CR2, r.CR3, r.CR4 = plain["CR0"], plain["CR2"], plain["CR3"], plain["CR4"]
		r.EFER = plain["EFER"]
		r.DR = [8]uint64{plain["DR0"], plain["DR1"], plain["DR2"], plain["DR3"], 0, 0, plain["DR6"], plain["DR7"]}
		r.FPU.FCW, r.FPU.FSW = uint16(plain["FCW"]), uint16(plain["FSW"])
		r.FPU.FTW, r.FPU.MXCSR = uint8(plain["FTW"]), uint32(plain["MXCSR"])
		for i := range r.FPU.ST {
			r.FPU.ST[i] = x87[(i+int(plain["ST"]))%8]
		}
		out = append(out, r)
	}
	return out
}
