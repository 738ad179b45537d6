package boot

import (
	_ "embed"
	"fmt"

	"snap/phys"
)

// Order is what a guest whose processors do anything (not Idle) can be told to do,
// by writing it to Info.Order: each stops it, in a way of its own, from the inside.
type Order uint64

// Orders. The values are those of order.asm. All but OrderPanic need a device that
// the machine must have.
const (
	OrderPanic Order = 1 // a bug check: Options.Panic is written, and pvpanic is told
	OrderHang  Order = 2 // the ib700 watchdog runs out
	OrderSleep Order = 3 // S3
	OrderWrite Order = 4 // to the first sector of the first ATA disk
	OrderOff   Order = 5 // S5
)

// orderCode is order.asm.
//
//go:embed order.bin
var orderCode []byte

// Offsets in the control page, as in order.asm and run.asm.
const (
	controlOrder  = 32
	controlOrders = 40 // virtual address of order.asm
	controlWrites = 48
	controlWentOn = 96

	writeTo    = 0
	writeFrom  = 8
	writeBytes = 16
	writeSize  = 24
)

// Write is what a guest writes to its own memory.
type Write struct {
	At    phys.VirtAddr // of writable kernel memory
	Bytes []byte
}

// installOrders writes what a guest does when it is ordered to, and where, to its
// control page, of which c is to be the content.
func (in *installer) installOrders(c []byte) error {
	code, err := in.place(orderCode)
	if err != nil {
		return err
	}
	le.PutUint64(c[controlOrders:], uint64(code))
	writes, err := in.installWrites(in.options.Panic)
	if err != nil {
		return fmt.Errorf("what a panic writes: %w", err)
	}
	le.PutUint64(c[controlWrites:], uint64(writes))
	return nil
}

// installWrites puts a table of writes, and their bytes behind it, into memory of the
// guest's, and returns where; 0 if there are none.
func (in *installer) installWrites(writes []Write) (phys.VirtAddr, error) {
	if len(writes) == 0 {
		return 0, nil
	}
	table := make([]byte, (len(writes)+1)*writeSize)
	size := len(table)
	for _, w := range writes {
		size += len(w.Bytes)
	}
	at, err := in.im.AllocPages((size + phys.PageSize - 1) / phys.PageSize)
	if err != nil {
		return 0, err
	}
	all := table
	for i, w := range writes {
		if err := in.mustWrite(w.At, len(w.Bytes)); err != nil {
			return 0, err
		}
		e := all[i*writeSize:]
		le.PutUint64(e[writeTo:], uint64(w.At))
		le.PutUint64(e[writeFrom:], uint64(at)+uint64(len(all)))
		le.PutUint64(e[writeBytes:], uint64(len(w.Bytes)))
		all = append(all, w.Bytes...)
	}
	return at, in.write(all, at)
}
