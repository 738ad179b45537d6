package boot

import (
	_ "embed"
	"fmt"
)

// Order is what a guest whose processors do anything (not Idle) can be told to do,
// by writing it to Info.Order: each stops it, in a way of its own, from the inside.
type Order uint64

// Orders. The values are those of order.asm. All but OrderPanic need a device that
// the machine must have.
const (
	OrderPanic Order = 1 // a bug check: KiBugCheckData gets Options.BugCheck, and pvpanic is told
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
	controlOrder    = 32
	controlOrders   = 40 // virtual address of order.asm
	controlBugCheck = 48
	controlValues   = 56
	controlWentOn   = 96
)

// installOrders writes what a guest does when it is ordered to, and where, to its
// control page, of which c is to be the content.
func (in *installer) installOrders(c []byte) error {
	code, err := in.place(orderCode)
	if err != nil {
		return err
	}
	le.PutUint64(c[controlOrders:], uint64(code))
	at := in.options.BugCheckData
	if at == 0 {
		return nil
	}
	if err := in.mustWrite(at, 8*len(in.options.BugCheck)); err != nil {
		return fmt.Errorf("KiBugCheckData: %w", err)
	}
	le.PutUint64(c[controlBugCheck:], uint64(at))
	for i, v := range in.options.BugCheck {
		le.PutUint64(c[controlValues+8*i:], v)
	}
	return nil
}
