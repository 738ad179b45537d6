package hv

import "snap/phys"

// Memory is a guest's memory through one mechanism, by guest-physical address. Reads
// are safe for concurrent use. One whose context has ended fails with the context's
// error, and one after Close fails; neither spoils the memory for others. The error
// is ErrNotRunning once the guest has ended, where that can be told.
type Memory interface {
	phys.Sparse

	// Mechanism names how the memory is read.
	Mechanism() Mechanism

	// RAM returns the pages that are memory: never a hole, never MMIO.
	// Reads outside of it fail with phys.ErrNotRAM.
	RAM() phys.Runs

	// Close releases the mechanism. Reads in flight end first.
	Close() error
}

// FallbackMemory is a Memory that MechanismAuto may have chosen because a faster
// one could not be opened.
type FallbackMemory interface {
	Memory

	// WhyNotDirect returns why the faster mechanism could not be used, nil if
	// this one was asked for.
	WhyNotDirect() error
}

// PartialMemory is a Memory that may lack pages which the guest had: they are not in
// RAM, and nobody knows what was in them.
type PartialMemory interface {
	Memory

	// Lost returns how many they are.
	Lost() uint64
}

// Mechanism is a way to read a guest's memory.
type Mechanism string

// Mechanisms that a running domain can be asked for. Files know only MechanismAuto.
const (
	MechanismAuto   Mechanism = "auto"   // direct where it works, else peek; no memory's own
	MechanismDirect Mechanism = "direct" // the hypervisor process's memory on this host
	MechanismPeek   Mechanism = "peek"   // through the hypervisor's API
)

// Mechanisms of memory that was saved. They are not asked for.
const (
	MechanismSnapshot Mechanism = "background-snapshot" // as the hypervisor saved it while the guest ran on
	MechanismELFCore  Mechanism = "elf-core"
	MechanismKdump    Mechanism = "kdump" // kdump-compressed
	MechanismLiME     Mechanism = "lime"
	MechanismAVML     Mechanism = "avml"
	MechanismRaw      Mechanism = "raw" // a file of nothing but memory
)

// Mechanisms returns all mechanisms that can be asked for, the default first.
func Mechanisms() []Mechanism {
	return []Mechanism{MechanismAuto, MechanismDirect, MechanismPeek}
}
