package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"snap/internal/ntlab"
	"snap/phys"
)

// A hostileProgram is a fuzzer's input: a byte that chooses the guest and what is
// known of its processors, and edits of 12 bytes each.
//
//	0   where: one of the guest's spots, or of its registers
//	1   how: an editKind
//	2   offset in the spot, 2 bytes
//	4   argument, 8 bytes
//
// What doesn't fit is taken modulo what there is.
const (
	editSize = 12
	maxEdits = 48

	withoutRegisters = 1 << 7 // of the first byte
)

// editKind is what an edit stores.
type editKind byte

const (
	edit64       editKind = iota // the argument
	edit32                       // its lower half
	edit16                       // its lowest 16 bits
	editFlip                     // a bit is turned
	editConstant                 // a value that is odd in many places
	editPointer                  // the virtual address of a spot, and an offset
	editEntry                    // the physical address of a spot's page, and the low bits of a page table entry
	editKDBG                     // the argument, encoded as the guest's KDBG is
	editRegister                 // the argument, or a spot's address, to a register
	editKinds
)

// oddValues are values that are at a limit of something.
var oddValues = []uint64{
	0, 1, 3, 4, 7, 0x208, 0x380, 0xFFF, 0x1000, 0x1001, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 47, 1<<52 - 1, 1 << 52, 1 << 63, ^uint64(0), ^uint64(7),
	0x7FFE_0000, 0xA_0000, 0xFEE0_0000, 0xFFFF_8000_0000_0000, 0xFFFF_F780_0000_0000, 0xFFFF_F800_0000_0000, 0x0000_8000_0000_0000,
	0xFF00_0000_0000_0000, 0x000F_FFFF_FFFF_F063, 0x0000_2000_0000_0860, 0x83, 0xE3, 0x400,
}

// hostileGuest is a guest that programs edit.
type hostileGuest struct {
	im     *ntlab.Image
	spots  []ntlab.Spot
	encode func(uint64) uint64
}

func newHostileGuests(t testing.TB) []hostileGuest {
	var out []hostileGuest
	for _, c := range append(slices.Clone(hostileGuests), ntlab.Config{Seed: 5, Profile: "ws2003sp1-x64"}) {
		c.Memory = hostileMemory
		im := newGuest(t, c).im
		out = append(out, hostileGuest{im, im.Spots(), im.KDBGWord})
	}
	return out
}

// run does a program to a clone of the guest. It returns the guest and its registers.
func (g *hostileGuest) run(program []byte) (*ntlab.Image, []phys.Registers) {
	im, cpus := g.im.Clone(), slices.Clone(g.im.Registers())
	for n := 0; len(program) >= editSize && n < maxEdits; n++ {
		g.edit(im, cpus, program[:editSize])
		program = program[editSize:]
	}
	return im, cpus
}

func (g *hostileGuest) edit(im *ntlab.Image, cpus []phys.Registers, e []byte) {
	spot := &g.spots[int(e[0])%len(g.spots)]
	arg := binary.LittleEndian.Uint64(e[4:])
	other := &g.spots[arg%uint64(len(g.spots))]
	kind, width := editKind(e[1])%editKinds, uint64(8)
	v := arg
	switch kind {
	case edit32:
		width = 4
	case edit16:
		width = 2
	case editConstant:
		v = oddValues[arg%uint64(len(oddValues))]
	case editPointer:
		v = uint64(other.VA) + arg>>56
	case editEntry:
		v = uint64(other.PA.PFN().Addr()) | arg>>52 | arg>>40&1<<63
	case editKDBG:
		v = g.encode(arg)
	case editRegister:
		setRegister(&cpus[int(e[0])%len(cpus)], e[2], []uint64{arg, uint64(other.VA), uint64(other.PA.PFN().Addr()), oddValues[arg%uint64(len(oddValues))]}[e[3]%4])
		return
	}
	at := spot.PA + phys.Addr(uint64(binary.LittleEndian.Uint16(e[2:]))%max(1, spot.Size/width)*width)
	b := binary.LittleEndian.AppendUint64(nil, v)[:width]
	if kind == editFlip {
		b = make([]byte, 8)
		if err := im.ReadPhys(context.Background(), b, at); err != nil {
			return
		}
		b[arg/8%8] ^= 1 << (arg % 8)
	}
	if err := im.WritePhys(at, b); err != nil {
		panic(err) // spots are in RAM
	}
}

func setRegister(c *phys.Registers, which byte, v uint64) {
	all := []*uint64{
		&c.CR3, &c.CR4, &c.CR0, &c.EFER, &c.GS.Base, &c.KernelGSBase, &c.LSTAR, &c.RIP, &c.RSP, &c.IDT.Base, &c.GDT.Base, &c.RFLAGS,
	}
	*all[int(which)%len(all)] = v
}

// FuzzHostileGuest edits the structures of a lab guest and analyzes it to the header.
// It must not panic, nor exceed budgets, and the header must be one of a dump.
func FuzzHostileGuest(f *testing.F) {
	guests := newHostileGuests(f)
	f.Add([]byte{})
	for i := range guests {
		f.Add([]byte{byte(i)})
		f.Add([]byte{byte(i) | withoutRegisters})
		for _, a := range ntlab.Attacks() {
			if p := guests[i].programOf(f, &a); p != nil {
				f.Add(append([]byte{byte(i)}, p...))
			}
		}
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) == 0 {
			return
		}
		g := &guests[int(program[0]&^withoutRegisters)%len(guests)]
		im, cpus := g.run(program[1:])
		if program[0]&withoutRegisters != 0 {
			cpus = nil
		}
		x := analyzeCounted(t, im, im, cpus)
		if err := x.check(); err != nil {
			t.Error(err)
		}
	})
}

// maxSeedEdits bounds the edits of an attack that is made a seed.
const maxSeedEdits = 8

// programOf returns the program that does what an attack does, nil if it takes more
// edits than a seed shall have, or others than programs can do.
func (g *hostileGuest) programOf(t testing.TB, a *ntlab.Attack) []byte {
	im := g.im.Clone()
	if err := a.Edit(im); errors.Is(err, ntlab.ErrNothingThere) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	var out []byte
	var before, after [phys.PageSize]byte
	for page := range im.Changed() {
		if g.im.ReadPhys(context.Background(), before[:], page.Addr()) != nil || im.ReadPhys(context.Background(), after[:], page.Addr()) != nil {
			return nil
		}
		for off := 0; off < phys.PageSize; off += 8 {
			w := binary.LittleEndian.Uint64(after[off:])
			if w == binary.LittleEndian.Uint64(before[off:]) {
				continue
			}
			e, ok := g.editAt(page.Addr()+phys.Addr(off), w)
			if !ok || len(out) >= maxSeedEdits*editSize {
				return nil
			}
			out = append(out, e...)
		}
	}
	return out
}

// editAt returns the edit that stores a word, and false if no spot has it.
func (g *hostileGuest) editAt(at phys.Addr, v uint64) ([]byte, bool) {
	for i, s := range g.spots {
		if off := at - s.PA; at >= s.PA && uint64(off)+8 <= s.Size && off%8 == 0 {
			e := []byte{byte(i), byte(edit64)}
			e = binary.LittleEndian.AppendUint16(e, uint16(off/8))
			return binary.LittleEndian.AppendUint64(e, v), true
		}
	}
	return nil, false
}
