// Package vmstate reads what QEMU writes when it saves a guest, the migration
// stream of a background snapshot. It gives the content of RAM blocks by page, in
// place, and the registers of the processors.
//
// The stream is, with all numbers big-endian (QEMU: migration/savevm.c,
// migration/savevm.h, migration/ram.c):
//
//	"QEVM", version 3
//	07  configuration: machine type and subsections
//	01  START of section "ram": the list of blocks           7e footer
//	04  FULL  of devices that are needed before RAM           7e footer
//	02  PART  of section "ram": page records, as often as …   7e footer
//	04  FULL  of each other device                            7e footer
//	00  end of sections
//	06  description: JSON that gives the length of each device's fields
//
// Sections of devices don't say how long they are; the description does.
//
// A background snapshot holds every page of every block just once, the zero ones
// too, except where a device (virtio-mem) has taken memory away.
//
// The stream is written by the hypervisor, but most of its content is chosen by
// the guest. All of it is checked: lengths and counts have caps, a page that is
// listed twice, lies outside of its block or comes with flags that a background
// snapshot can't have is an error, and memory is used in proportion to the stream
// that has really been there.
package vmstate

import (
	"errors"
	"fmt"
)

// Classes of failure; test with errors.Is. Messages give the file offset.
var (
	// ErrFormat: the bytes are not such a stream, or are damaged, or use a
	// feature of the format that a background snapshot doesn't have.
	ErrFormat = errors.New("damaged or unknown migration stream")
	// ErrTruncated: the stream breaks off, at the end of the bytes or at zeros
	// that were never overwritten. It is also ErrFormat.
	ErrTruncated = fmt.Errorf("%w: it breaks off", ErrFormat)
	// ErrLimit: the stream is larger than Options allow. It is also ErrFormat.
	ErrLimit = fmt.Errorf("%w: it is larger than expected", ErrFormat)
)

// Options are what the caller knows of the guest from elsewhere.
type Options struct {
	// MaxRAM is the most bytes that all RAM blocks together may have, ROMs and
	// video memory included. 0 means 64 TiB.
	MaxRAM uint64
	// MaxCPUs is the most processors, 0 means 4096.
	MaxCPUs int
	// KVM says that the guest runs under KVM (QMP query-kvm). The order of the
	// x87 registers in QEMU's state depends on it and the stream doesn't tell:
	// KVM's image of them is taken over as it is, in the order of the stack
	// (target/i386/xsave_helper.c), while TCG keeps them by register number.
	KVM bool
}
