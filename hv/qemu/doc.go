// Package qemu is what QEMU says of a guest and does with it, over whatever
// carries its monitor: the RAM map, the processors' registers, the guest's memory
// in QEMU's process, and snapshots of a guest that runs on.
//
// Whoever reaches a QEMU makes a Guest of it with a Monitor of its own: hv/libvirt
// does, through the daemon, and a socket to QEMU itself would do as well. What QEMU
// can't know, because somebody else runs it and may want something of it at the same
// time, a snapshot asks a Manager.
//
// The guest's memory is read in QEMU's process on this host: with process_vm_readv
// where it is anonymous, from the backing file where it is shared.
//
// All text that comes from QEMU is checked before it is believed: a RAM map has
// nothing that isn't the machine's own memory and adds up to what the machine was
// given, processors are those that QEMU lists, and what doesn't fit is an error.
//
// But for a snapshot, and for what ends one, QEMU is asked and told nothing that
// would change it. The commands are query-* of QMP (qapi/*.json of QEMU) and of
// the human monitor "info mtree -f", "info ramblock", "info registers -a" and
// "gpa2hva"; each parser names the function of QEMU that writes what it reads.
package qemu
