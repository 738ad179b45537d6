package verify

import (
	"encoding/binary"
	"errors"
	"fmt"

	"snap/guest"
	"snap/phys"
)

// tableForm is how the entries of page tables are read (Intel SDM volume 3, 4.3 to
// 4.5). Levels are counted from that of the tables which map 4 KiB pages, 1.
type tableForm struct {
	size    int    // bytes of an entry
	frame   uint64 // where it leads
	largest int    // of whose entries bit 7 says that they map a page
	bits    []uint // of an address, by level: what the entries of a table are chosen by
}

const (
	entryPresent = 1 << 0
	entryLarge   = 1 << 7
)

// formOf returns the form of a guest's page tables.
func formOf(p *guest.Paging) tableForm {
	const frames = 0x000f_ffff_ffff_f000
	switch {
	case p.PAE():
		return tableForm{8, frames, 2, []uint{0, 9, 9, 2}}
	case p.Levels() == 2:
		return tableForm{4, 0xffff_f000, 2, []uint{0, 10, 10}}
	}
	f := tableForm{8, frames, 3, []uint{0}}
	for range p.Levels() {
		f.bits = append(f.bits, 9)
	}
	return f
}

// top returns the level of the table at the top.
func (f *tableForm) top() int { return len(f.bits) - 1 }

// shift returns the lowest bit of an address that chooses an entry of a level.
func (f *tableForm) shift(level int) uint {
	n := uint(phys.PageShift)
	for _, b := range f.bits[1:level] {
		n += b
	}
	return n
}

// maxTables bounds the tables above the lowest level that are read: one maps
// at least 1 GiB, and the kernel half of 128 TiB is never full.
const maxTables = 1 << 16

var le = binary.LittleEndian

// readTable returns the entries of a table of a level.
func (v *verifier) readTable(f *tableForm, at phys.Addr, level int) ([]uint64, error) {
	var page [phys.PageSize]byte
	if err := v.f.ReadPhys(v.ctx, page[:], at&^(phys.PageSize-1)); err != nil {
		return nil, inDump(err)
	}
	t := make([]uint64, 1<<f.bits[level])
	for i := range t {
		b := page[at.Offset()+uint64(i*f.size):]
		if f.size == 4 {
			t[i] = uint64(le.Uint32(b))
		} else {
			t[i] = le.Uint64(b)
		}
	}
	return t, nil
}

func (v *verifier) checkDirectoryTable() (string, error) {
	var err error
	if v.space, err = guest.FindAddressSpace(v.ctx, v.f, v.f.RAM(), v.header.DirectoryTableBase); err != nil {
		return "", err
	}
	v.root = v.space.Root()
	slots, err := v.space.SelfMapSlots(v.ctx)
	if err != nil {
		return "", inDump(err)
	}
	if len(slots) != 1 {
		return "", fmt.Errorf("%d kernel entries of the table at %#x map it to itself; a Windows kernel's has one", len(slots), uint64(v.root))
	}
	return fmt.Sprintf("%#x, %v, self-map in slot %#x", uint64(v.root), v.space.Paging(), slots[0]), nil
}

// checkTableBits: a public kernel dump's header has the PCID of its CR3 (0x6D4002).
func (v *verifier) checkTableBits() (string, error) {
	if at := v.header.DirectoryTableBase; at != v.root {
		return "", fmt.Errorf("%#x has bits beside the table's address, as a CR3 has (PCID)", uint64(at))
	}
	return "none", nil
}

// checkPageTables looks up every table of the kernel's half. Those of the
// lowest level need only be in the dump, so they are not read.
func (v *verifier) checkPageTables() (string, error) {
	w := tableWalk{verifier: v, form: formOf(v.space.Paging()), seen: map[phys.Addr]bool{}}
	if err := w.table(v.root, w.form.top(), 0); err != nil {
		return "", err
	}
	if w.missing > 0 {
		return "", fmt.Errorf("%d of %d tables of the kernel are not in the dump, the first at %#x for address %#x",
			w.missing, w.tables, uint64(w.firstMissing), uint64(w.firstVA))
	}
	return fmt.Sprintf("%d tables of the kernel are in the dump", w.tables), nil
}

type tableWalk struct {
	*verifier
	form            tableForm
	seen            map[phys.Addr]bool // tables above the lowest level
	tables, missing int
	firstMissing    phys.Addr
	firstVA         phys.VirtAddr
}

// table counts the table at a physical address and those below it. va is the
// first address that it maps.
func (w *tableWalk) table(at phys.Addr, level int, va phys.VirtAddr) error {
	if w.seen[at] { // the self-map among others
		return nil
	}
	w.tables++
	if !w.f.RAM().Has(at.PFN()) {
		if w.missing++; w.missing == 1 {
			w.firstMissing, w.firstVA = at, va
		}
		return nil
	}
	if level == 1 {
		return nil
	}
	w.seen[at] = true
	if len(w.seen) > maxTables {
		return fmt.Errorf("more than %d tables", maxTables)
	}
	t, err := w.readTable(&w.form, at, level)
	if err != nil {
		return fmt.Errorf("table for address %#x: %w", uint64(va), err)
	}
	first := 0
	if level == w.form.top() {
		first = len(t) / 2 // the kernel's half
	}
	for i := first; i < len(t); i++ {
		if t[i]&entryPresent == 0 || (level <= w.form.largest && t[i]&entryLarge != 0) {
			continue
		}
		shift := w.form.shift(level)
		below := va | phys.VirtAddr(i)<<shift
		if level == w.form.top() {
			below |= ^phys.VirtAddr(0) << (shift + w.form.bits[level]) // sign extension
		}
		if err := w.table(phys.Addr(t[i]&w.form.frame), level-1, below); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) checkKUSER() (string, error) {
	var err error
	if v.kuser, err = guest.ReadKUSER(v.ctx, v.space); err != nil {
		return "", inDump(err)
	}
	return "mapped at " + hex(v.space.Arch().KUSER()), nil
}

// The fields of the KDBG that the header repeats (wdbgexts.h).
const (
	fieldModules   = "PsLoadedModuleList"
	fieldProcesses = "PsActiveProcessHead"
)

func (v *verifier) checkKDBG() (string, error) {
	at := v.address(v.header.KdDebuggerDataBlock)
	var err error
	if v.kdbg, err = guest.ReadKDBG(v.ctx, v.space, at); err != nil {
		return "", inDump(err)
	}
	return fmt.Sprintf("plain, %#x bytes at %#x", len(v.kdbg.Block), uint64(at)), nil
}

// address returns an address that the header has in as many bits as its width.
func (v *verifier) address(a phys.VirtAddr) phys.VirtAddr { return v.header.Width.Address(a) }

// checkNoKDBG is of a dump that names none.
func (v *verifier) checkNoKDBG() (string, error) {
	return "", errors.New("the header names none: debuggers that begin with it find neither processors nor lists; those that find the kernel themselves, such as volatility3, do without")
}

func (v *verifier) checkListHeads() (string, error) {
	same := func(name string, got phys.VirtAddr) error {
		want, ok := v.kdbg.Value(name)
		if !ok || uint64(v.address(got)) != want {
			return fmt.Errorf("%s is %#x; the KDBG says %#x", name, uint64(got), want)
		}
		return nil
	}
	if err := errors.Join(same(fieldModules, v.header.PsLoadedModuleList), same(fieldProcesses, v.header.PsActiveProcessHead)); err != nil {
		return "", err
	}
	return "as the KDBG says", nil
}

func (v *verifier) checkKernel() (string, error) {
	if v.hasNoKDBG() {
		var err error
		if v.system, err = guest.Open(v.ctx, v.f, v.f.RAM(), v.root, 0); err != nil {
			return "", inDump(err)
		}
		return "at " + hex(v.system.Kernel.Base) + ", found without a KDBG", nil
	}
	base := v.kdbg.KernBase()
	image, err := guest.ReadImage(v.ctx, v.space, base)
	if err != nil {
		return "", inDump(err)
	}
	if uint32(image.Machine) != uint32(v.header.MachineImageType) {
		return "", fmt.Errorf("the image at %#x is for machine %#x; the header says %v", uint64(base), image.Machine, v.header.MachineImageType)
	}
	v.system, err = guest.Open(v.ctx, v.f, v.f.RAM(), v.root, v.address(v.header.KdDebuggerDataBlock))
	if v.system == nil {
		return "", inDump(err)
	}
	return "at " + hex(base), nil // what else Open missed is for the checks of those things
}
