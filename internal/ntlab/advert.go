package ntlab

import (
	"errors"

	"snap/guest/phys"
)

// Flags of a KBUGCHECK_REMOVE_PAGES (WDK wdm.h).
const (
	RemoveVirtual    = 0x00000001 // KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS
	RemovePhysical   = 0x00000002 // KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS
	RemoveAdditional = 0x80000000 // KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST
)

// RemovePages is a KBUGCHECK_REMOVE_PAGES (WDK wdm.h).
type RemovePages struct {
	Context      uint64
	Flags        uint32
	BugCheckCode uint32
	Address      uint64 // virtual or physical
	Count        uint64 // 4 KiB pages
}

// Advert is a table of pages that a driver asks to leave out of dumps, as
// guest/driver/snap_advert.h lays it out.
type Advert struct {
	Entries  []RemovePages
	Capacity uint32 // entries that fit; 0: as many as there are
	Sequence uint32 // odd: the driver is changing the table
	// Next is a further table. It may be one that comes before.
	Next *Advert
	// InPool puts the table into nonpaged pool; further tables always go
	// there. Else it is in the driver's data.
	InPool bool
	// Offset is where in its first page the table begins, a multiple of 8. It
	// goes on in pages that are not neighbours in physical memory.
	Offset uint32
	// Edit, if any, changes the table's bytes, header and all entries that
	// fit, before they are written.
	Edit func(table []byte)
}

// Advertised is an advert of the image: what a driver exports.
type Advertised struct {
	Module string
	Symbol phys.VirtAddr // of SnapRemovePages
	Tables []Table       // in the order of the chain, the exported one first, each once
}

// Table is one table of an advert.
type Table struct {
	VA      phys.VirtAddr
	Entries []RemovePages // as the Advert has them, before its Edit
}

// Registration is a KBUGCHECK_REASON_CALLBACK_RECORD for the reason
// KbCallbackRemovePages.
type Registration struct {
	Module    string
	Record    phys.VirtAddr
	Routine   phys.VirtAddr
	Component phys.VirtAddr // of a string, which is the module's name without .sys
}

var errNotYet = errors.ErrUnsupported

// Advertise makes the named driver advertise a. A driver that isn't loaded is
// made: a small one whose export directory names SnapRemovePages. One that is
// loaded and exports it gets a as what the exported table's Next leads to.
// Truth.Adverts says what became of it.
func (im *Image) Advertise(module string, a *Advert) (Advertised, error) {
	return Advertised{}, errNotYet
}

// Register makes the named driver, which is made if it isn't loaded, register
// a KbCallbackRemovePages routine: it puts a record into the driver's data and
// links it into KeBugCheckAddRemovePagesCallbackListHead.
// Truth.Registrations says what became of it.
func (im *Image) Register(module string) (Registration, error) {
	return Registration{}, errNotYet
}
