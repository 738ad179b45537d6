// Package boot makes a lab image a guest that runs: an ELF file that QEMU
// boots by its PVH entry (Xen docs/misc/pvh; QEMU hw/i386/x86.c), with code
// that brings every processor into the image's own page tables, descriptor
// tables and kernel, where it then changes memory in ways that a dump can be
// held against.
//
// The boot code lies in pages that the image doesn't use, below 4 GiB. It
// builds nothing itself: page tables, processor records, copy and fill tables
// come ready in the ELF file. Pages that the firmware would overwrite (the
// first MiB, and the top of the RAM below 4 GiB) are loaded elsewhere and
// copied into place when the firmware has run.
//
// In the kernel image's text each processor writes an increasing number to
// the pages of its chain, in the chain's order, so that memory of one moment
// has numbers along each chain that go down by one at most once; CheckChains
// measures that. One of them can also keep changing a table of pages to leave
// out of dumps (Advert). A guest can be told, from outside, to stop by itself: to
// crash, for one (Order).
package boot

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"snap/phys"
)

// Image is guest memory that can be made bootable; *ntlab.Image is one.
type Image interface {
	phys.Reader

	// RAM is the machine's memory, with its hole below 4 GiB.
	RAM() phys.Runs
	// Registers is what every processor shall have, by vCPU index. vCPU 0 is
	// in kernel mode. One in user mode has an RIP in a page of code that may
	// be overwritten, and a stack that may be written to.
	Registers() []phys.Registers
	// Pages yields the pages that hold anything, in ascending order.
	Pages() iter.Seq2[phys.PFN, *[phys.PageSize]byte]
	// Free is the RAM that the guest doesn't use.
	Free() phys.Runs
	// WritePhys writes memory that is RAM.
	WritePhys(at phys.Addr, b []byte) error
	// AllocPages returns n pages of writable, nonpaged kernel memory.
	AllocPages(n int) (phys.VirtAddr, error)
	// Spare is room in the kernel image's text, and its size in bytes.
	Spare() (phys.VirtAddr, uint64)
}

// Mode says what the processors do once they run.
type Mode uint64

// Modes. The values are those of run.asm.
const (
	Paced Mode = iota // a round of writes per millisecond, and halted between
	Busy              // round after round
	Idle              // halted for ever: memory stays as it is
)

// Options of Prepare.
type Options struct {
	Mode Mode

	// Timekeeper is the vCPU that keeps KUSER_SHARED_DATA's time going.
	Timekeeper int

	// DirectoryTableBase is a page table that maps the whole kernel half: the
	// System process's. 0 takes the CR3 of vCPU 0.
	DirectoryTableBase phys.Addr

	// Panic is what OrderPanic leaves in memory, written first to last.
	Panic []Write

	// Note, if any, is an ELF note that the guest hands to QEMU's vmcoreinfo device
	// (QEMU docs/specs/vmcoreinfo.rst) before it is ready. Without the device it
	// doesn't get ready.
	Note []byte

	// Advert, if any, is a table of pages to leave out of dumps that one of
	// the processors keeps changing, if it does anything.
	Advert *Advert

	// FillPages is how many of the image's unused pages the guest fills
	// before it is ready, with Mix, deterministically from Seed; all of them
	// where there are fewer.
	FillPages uint64
	Mix       Mix
	Seed      uint64
}

// Info says what a prepared guest does and where, for those who look at it
// from outside.
type Info struct {
	Ready  phys.Addr // of a qword that turns 1 when all processors run
	Order  phys.Addr // of a qword that takes an Order
	WentOn phys.Addr // of a qword that counts for as long as the guest runs after OrderPanic
	VCPUs  []VCPU    // by vCPU index
	Chains []Chain   // of the processors in kernel mode
	Fills  []Fill    // by address
	Advert *Advert   // Options.Advert
	// Residue is what the boot code and the pages it copied leave in memory
	// that the image says is unused.
	Residue phys.Runs
}

// VCPU is a processor of a guest that runs.
type VCPU struct {
	Code      phys.VirtAddr // start of its code in the kernel's text, or in its process
	CodeEnd   phys.VirtAddr // first byte after
	RSP       uint64        // in the kernel less by up to 64 while it takes a tick
	CR3       phys.Addr
	Heartbeat phys.Addr // of a qword that increases while it runs
}

// ReadyLine is what a guest writes to its first serial port when all
// processors run in the kernel.
const ReadyLine = "SNAP-LAB READY"

// MaxCPUs is how many processors the boot code can start: their local APIC
// ids have 8 bits and 0xFF addresses all (Intel SDM volume 3, 11.6.2).
const MaxCPUs = 255

// Program is a prepared guest.
type Program struct {
	Info     Info
	entry    phys.Addr
	segments []segment
}

// Prepare puts the code and data that the guest runs into im, which stays the
// caller's to read but must not be changed until WriteELF has returned, and
// plans what is loaded where.
func Prepare(im Image, o Options) (*Program, error) {
	regs := im.Registers()
	if len(regs) == 0 || len(regs) > MaxCPUs {
		return nil, fmt.Errorf("boot %d processors: not between 1 and %d", len(regs), MaxCPUs)
	}
	if regs[0].UserMode() {
		return nil, errors.New("boot a guest whose vCPU 0 is in user mode: it could not say that it is ready")
	}
	if o.Timekeeper < 0 || o.Timekeeper >= len(regs) || regs[o.Timekeeper].UserMode() {
		return nil, fmt.Errorf("keep time on vCPU %d of %d: it must be one in kernel mode", o.Timekeeper, len(regs))
	}
	if o.DirectoryTableBase == 0 {
		o.DirectoryTableBase = tableBase(regs[0].CR3)
	}
	t := tablesOf(im, o.DirectoryTableBase)
	if o.Advert != nil {
		if err := o.Advert.check(t, regs); err != nil {
			return nil, err
		}
	}
	blocks, info, err := installRun(t, regs, o)
	if err != nil {
		return nil, fmt.Errorf("install the guest's code: %w", err)
	}
	records, err := buildRecords(t, regs, blocks, o.Mode)
	if err != nil {
		return nil, fmt.Errorf("build the processors' state: %w", err)
	}
	var waits [][4]uint64
	for i, v := range info.VCPUs {
		if regs[i].UserMode() {
			waits = append(waits, [4]uint64{uint64(v.Heartbeat)})
		}
	}
	p, err := buildPlan(im, records, waits, o)
	if err != nil {
		return nil, fmt.Errorf("place the guest in memory: %w", err)
	}
	info.Fills = p.fills
	info.Advert = o.Advert
	info.Residue = p.residue
	return &Program{Info: *info, entry: p.entry, segments: p.segments}, nil
}

// WriteELF writes the guest as an ELF64 file with a PVH entry note.
func (p *Program) WriteELF(w io.Writer) error {
	return writeELF(w, p.entry, p.segments)
}

// errNoRoom says that the image leaves no unused memory of the kind needed.
var errNoRoom = errors.New("no room in unused memory")
