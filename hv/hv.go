// Package hv is what snap needs of a hypervisor: a guest's memory, its
// processors' registers, and a way to hold it still that always ends. It knows
// nothing of the operating system in the guest.
//
// All of it is contracts. A Driver opens a Connection, which finds a VM; a VM is a
// Source, as is a file that holds a guest, and a Source opens a Memory. What only
// some of them can do is an interface of its own, which callers ask for by a type
// assertion on the interface, never on an implementation:
//
//	JobPauser       a VM that a job of the hypervisor's can hold still for a moment
//	Snapshotter     a VM whose memory of one moment can be had while it runs on
//	Guardable       a VM of which another process can undo what was done to it
//	FallbackMemory  a Memory that says why it isn't a faster one
//	DearMemory      a Memory that is best read with few calls
//	Noted           a Source that has to tell how it is read
//
// The implementations are hv/libvirt for running domains (with hv/qemu, which
// knows QEMU itself) and hv/file for files that hold a guest; hv/connect lists the
// drivers. Package hv/hvtest holds every implementation to what is written here.
//
// Everything here is safe for concurrent use unless it says otherwise. A method
// that takes a context returns soon after that has ended, and its error then is
// the context's.
package hv
