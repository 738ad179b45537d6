// Package libvirt makes the domains of a libvirt daemon readable: it implements
// hv.VM over libvirt's RPC protocol. What QEMU itself says and does is package
// qemu's, to which it hands QEMU's monitor.
//
// Memory comes through one of two mechanisms. Direct reads the QEMU process on
// this host (qemu.Guest). Peek asks the daemon (virDomainMemoryPeek) and so works
// from afar, but it is a file copy in disguise: the daemon has QEMU write each
// chunk into a file under its cache folder (/var/cache/libvirt/qemu for
// qemu:///system), reads it back and unlinks it. That costs a pass of QEMU's main
// thread for every chunk, leaves plain guest memory in that folder's free blocks
// unless it is a tmpfs, and gives wrong bytes without an error if that file
// system is full. Direct has none of this and is preferred wherever it works.
//
// Both read only what the RAM map of QEMU's flat view calls the machine's own
// memory. A peek outside of RAM would not fail: it would read device registers.
//
// A guest is held still in one of two ways: by virDomainSuspend, or for a moment by
// a job of the daemon's own (PauseByJob), which others wait for. Snapshot has QEMU
// save a guest that runs on (a background snapshot), where that is known to be
// harmless. Guard puts a marker on the domain meanwhile, and somebody behind it who
// undoes all that should this process die.
//
// QEMU's monitor is reached through virDomainQemuMonitorCommand, and with a
// descriptor, for a snapshot, through virDomainQemuMonitorCommandWithFiles. libvirt
// marks the domain as tainted by that (custom-monitor), which is a line in its log.
//
// No call here outlives its context. The RPC client has no timeouts, so a context
// that ends cuts the connection; what must still happen then, like resuming a
// guest, dials a new one.
//
// What else the client (github.com/digitalocean/go-libvirt, of 2026-10-13) leaves to
// its user, and who sees to it here:
//
//   - It believes every length that the daemon announces: framed checks them.
//   - A call can wait for ever on a connection that is gone, and a send that fails
//     while a reply arrives can deadlock (its issue 241): run abandons the call.
//   - It decodes by reflection and can panic: run turns that into an error.
//   - Replies are delivered one after the other, so that a slow reader of events
//     stalls every call; and an event that nobody takes blocks its subscription for
//     ever, also after the subscription's context has ended. A watch has a connection
//     of its own, reads until the channel closes, and ends it by closing the
//     connection.
//   - An event with a domain in it is of any domain: a watch compares UUIDs.
//   - Disconnect makes a call itself, and reconnecting races: neither is used.
//
// The version of 2026-10 ended the deadlock between the end of a subscription and an
// event for it (its issues 190 and 191), and two of consoles, which aren't used here.
package libvirt
