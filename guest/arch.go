package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"snap/phys"
)

// Arch is a processor architecture, as far as it decides how Windows lies in
// memory: where things are that have fixed addresses, and what registers tell. How
// page tables are read is a Paging, of which an architecture has several. The
// package has the values, see Archs; they are constant and safe for concurrent use.
type Arch struct {
	name    string
	machine uint16
	pointer int // bytes
	// pagings are the ways in which page tables can be built, that which most guests
	// use first.
	pagings []*Paging
	entries entryBits

	// The kernel and the boot drivers are from kernelsLow up to kernelsHigh, with
	// and without address space randomisation.
	kernelsLow, kernelsHigh phys.VirtAddr
	kuser                   phys.VirtAddr

	contextSize, contextAlign int // bytes

	registers RegisterNames
	// pagingsOf returns how a processor may translate by tables that its registers
	// name: one way where they say which, all where they don't, and none of a
	// processor that doesn't page, or otherwise.
	pagingsOf func(*phys.Registers) []*Paging
	// kpcrs returns where a processor's KPCR may be, the likelier place first.
	kpcrs func(*phys.Registers) []phys.VirtAddr
	// hints returns what the processors' registers know of where the kernel is.
	hints func(context.Context, *AddressSpace, []phys.Registers) []hint
}

// RegisterNames are what people call the registers that every architecture has
// in some form.
type RegisterNames struct {
	ProgramCounter, StackPointer, PageTableRoot string
}

// Archs returns the architectures whose Windows is understood, in the order in
// which Discover looks for it.
func Archs() []*Arch { return []*Arch{AMD64()} }

// Name returns the usual short name in lower case, such as "amd64".
func (a *Arch) Name() string { return a.name }

// String is Name.
func (a *Arch) String() string { return a.name }

// Machine returns the IMAGE_FILE_MACHINE of kernels for a (Microsoft PE format).
func (a *Arch) Machine() uint16 { return a.machine }

// PointerSize returns the bytes of a kernel pointer.
func (a *Arch) PointerSize() int { return a.pointer }

// Pagings returns the ways in which page tables of a can be built, that which most
// guests use first.
func (a *Arch) Pagings() []*Paging { return slices.Clone(a.pagings) }

// KUSER returns the address at which every kernel for a maps KUSER_SHARED_DATA.
func (a *Arch) KUSER() phys.VirtAddr { return a.kuser }

// ContextSize returns the bytes of a CONTEXT (winnt.h).
func (a *Arch) ContextSize() int { return a.contextSize }

// Registers returns the names of registers.
func (a *Arch) Registers() RegisterNames { return a.registers }

// SameTable reports whether two page tables, each a page of memory, lead to the
// same: they may differ in bits that say nothing of where an entry leads, such
// as those that the processor sets when it uses the entry. In entries that
// aren't present every bit counts.
func (a *Arch) SameTable(x, y []byte) bool {
	if bytes.Equal(x, y) {
		return true
	}
	if len(x) != len(y) {
		return false
	}
	for i := 0; i+8 <= len(x); i += 8 {
		e, f := binary.LittleEndian.Uint64(x[i:]), binary.LittleEndian.Uint64(y[i:])
		if diff := e ^ f; diff != 0 && (e&a.entries.present == 0 || diff&^a.entries.ignored != 0) {
			return false
		}
	}
	return true
}
