package verify

import (
	"encoding/binary"
	"errors"
	"fmt"

	"snap/guest"
	"snap/phys"
)

// Page table entries (Intel SDM volume 3, 4.5).
const (
	tableEntries = 512
	kernelHalf   = 256 // the first entry of the top level for kernel addresses
	largestLevel = 3   // of whose entries bit 7 says that they map a page
	entryPresent = 1 << 0
	entryLarge   = 1 << 7
	entryFrame   = 0x000f_ffff_ffff_f000
	levelBits    = 9
)

// maxTables bounds the tables above the lowest level that are read: one maps
// at least 1 GiB, and the kernel half of 128 TiB is never full.
const maxTables = 1 << 16

var le = binary.LittleEndian

func (v *verifier) readTable(at phys.Addr) (*[tableEntries]uint64, error) {
	var page [phys.PageSize]byte
	if err := v.f.ReadPhys(v.ctx, page[:], at); err != nil {
		return nil, inDump(err)
	}
	var t [tableEntries]uint64
	for i := range t {
		t[i] = le.Uint64(page[8*i:])
	}
	return &t, nil
}

func (v *verifier) checkDirectoryTable() (string, error) {
	root := v.header.DirectoryTableBase & tableMask
	v.root = root
	t, err := v.readTable(root)
	if err != nil {
		return "", err
	}
	slot, maps := 0, 0
	for i := kernelHalf; i < tableEntries; i++ {
		if t[i]&entryPresent != 0 && phys.Addr(t[i]&entryFrame) == root {
			slot = i
			maps++
		}
	}
	if maps != 1 {
		return "", fmt.Errorf("%d kernel entries of the table at %#x map it to itself; a Windows kernel's has one", maps, uint64(root))
	}
	if v.space, err = guest.FindAddressSpace(v.ctx, v.f, v.f.RAM(), root); err != nil {
		return "", err
	}
	return fmt.Sprintf("%#x, %v, self-map in slot %#x", uint64(root), v.space.Paging(), slot), nil
}

// tableMask keeps of a CR3 what is the table's address. The rest is its PCID and
// what else a processor keeps there; readers drop it (kdmp-parser, volatility,
// LeechCore).
const tableMask = phys.Addr(entryFrame)

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
	w := tableWalk{verifier: v, top: v.space.Paging().Levels(), seen: map[phys.Addr]bool{}}
	if err := w.table(v.root, w.top, 0); err != nil {
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
	top             int                // level of the table at the top
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
	t, err := w.readTable(at)
	if err != nil {
		return fmt.Errorf("table for address %#x: %w", uint64(va), err)
	}
	first := 0
	if level == w.top {
		first = kernelHalf
	}
	for i := first; i < tableEntries; i++ {
		if t[i]&entryPresent == 0 || (level <= largestLevel && t[i]&entryLarge != 0) {
			continue
		}
		below := va | phys.VirtAddr(i)<<(phys.PageShift+levelBits*(level-1))
		if level == w.top {
			below |= ^phys.VirtAddr(0) << (phys.PageShift + levelBits*level) // sign extension
		}
		if err := w.table(phys.Addr(t[i]&entryFrame), level-1, below); err != nil {
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
	return "mapped at " + hex(guest.KUSERAddress), nil
}

// The fields of the KDBG that the header repeats (wdbgexts.h).
const (
	fieldModules   = "PsLoadedModuleList"
	fieldProcesses = "PsActiveProcessHead"
)

func (v *verifier) checkKDBG() (string, error) {
	at := v.header.KdDebuggerDataBlock
	var err error
	if v.kdbg, err = guest.ReadKDBG(v.ctx, v.space, at); err != nil {
		return "", inDump(err)
	}
	return fmt.Sprintf("plain, %#x bytes at %#x", len(v.kdbg.Block), uint64(at)), nil
}

// checkNoKDBG is of a dump that names none.
func (v *verifier) checkNoKDBG() (string, error) {
	return "", errors.New("the header names none: debuggers that begin with it find neither processors nor lists; those that find the kernel themselves, such as volatility3, do without")
}

func (v *verifier) checkListHeads() (string, error) {
	same := func(name string, got phys.VirtAddr) error {
		want, ok := v.kdbg.Value(name)
		if !ok || uint64(got) != want {
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
	v.system, err = guest.Open(v.ctx, v.f, v.f.RAM(), v.root, v.header.KdDebuggerDataBlock)
	if v.system == nil {
		return "", inDump(err)
	}
	return "at " + hex(base), nil // what else Open missed is for the checks of those things
}
