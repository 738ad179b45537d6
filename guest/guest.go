// Package guest says what is in the memory of a Windows guest, from a reader
// of its physical memory, its RAM map and its processors' registers alone: no
// symbols, no driver, no agent.
//
// [Discover] finds the System process's page tables, the kernel image, the
// debugger data block (KDBG, in plain or encoded form), the processors and the
// physical memory ranges. [Open] does the same for memory whose page table and
// KDBG address are already known, such as a crash dump. Both return a [System];
// its methods walk the lists of modules and processes. What a dump header says
// is in its fields with its origin, as phys.Known.
//
// [Finders] are the ways in which Discover looks for page tables, each in a file
// of its own; [System.Attempts] says what they found. [Arch] is what differs
// between processor architectures: AMD64 and X86. [Paging] is how page tables are built:
// by 4 or 5 levels, or on x86 with PAE or without, which an [AddressSpace] has and a
// guest decides.
//
// Everything read here is hostile input. Every count, length and pointer is
// bounded by a named constant and checked before use; a guest that lies gets an
// error or a warning, never a panic, a hang or an unbounded allocation.
//
// Only x86-64 and x86 guests are supported.
package guest

import (
	"errors"
	"fmt"

	"snap/phys"
)

// Classes of failure that callers act on; test with errors.Is. Memory outside
// the RAM map gives phys.ErrNotRAM.
var (
	// ErrNotWindows: no Windows kernel that snap understands is in memory.
	ErrNotWindows = errors.New("not a Windows guest that snap understands")
	// ErrNotPresent: a page table entry maps nothing that is in RAM.
	ErrNotPresent = errors.New("page not present")
	// ErrNotCanonical: a virtual address that the guest's paging can't translate.
	ErrNotCanonical = errors.New("address not canonical")
	// ErrNotFound: an image has no export or debug entry of that kind.
	ErrNotFound = errors.New("not found")
	// ErrNoKDBG: the kernel's debugger data block is in none of its readable pages.
	ErrNoKDBG = errors.New("no KDBG")
	// ErrMalformed: a structure in guest memory breaks its own rules.
	ErrMalformed = errors.New("malformed")
)

// FormatError is a structure in guest memory that breaks a rule of its format.
// errors.Is(err, ErrMalformed) holds for it.
type FormatError struct {
	What   string        // the structure
	At     phys.VirtAddr // of the structure or, where it is known, of the field
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s at %#x: %s", e.What, uint64(e.At), e.Reason)
}

// Is reports whether target is ErrMalformed.
func (e *FormatError) Is(target error) bool { return target == ErrMalformed }

// malformed returns a FormatError with a formatted reason.
func malformed(what string, at phys.VirtAddr, format string, args ...any) error {
	return &FormatError{What: what, At: at, Reason: fmt.Sprintf(format, args...)}
}
