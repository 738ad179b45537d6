package boot

import (
	"errors"
	"fmt"

	"snap/phys"
)

// Advert is a table of pages to leave out of dumps (guest/driver/README.md)
// that a processor of the guest keeps changing by the published protocol:
// Sequence odd, entries, Count, Sequence even. It goes through generations, one
// for each round of the processor's. In every one all entries bear the
// generation's number as their Context. Even generations ask for the first
// half of Pages, a page by each of Entries entries; odd ones for as many pages
// from the second half on as half of that, and so have half of the entries. So
// entries that are not of one generation show it.
type Advert struct {
	// Table is the table's address. It is writable, and has room for Entries.
	Table phys.VirtAddr
	// Entries are those of an even generation, an even number.
	Entries int
	// Pages is the address of 2*Entries pages of nonpaged memory.
	Pages phys.VirtAddr
	// CPU is the vCPU that changes the table: one in kernel mode.
	CPU int
}

// Offsets in the table and in KBUGCHECK_REMOVE_PAGES (WDK wdm.h), as in
// run.asm.
const (
	advertMagic    = "SNAPRMPG"
	advertCapacity = 0x0C
	advertHeader   = 0x20
	advertEntry    = 0x20
	maxAdvert      = 4096

	entryFlags   = 0x08
	entryCode    = 0x0C
	entryAddress = 0x10
	entryCount   = 0x18
	flagVirtual  = 1 // KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS
)

// linger is how many pauses the processor makes after each entry, so that a
// table under change is not too rare a sight.
const linger = 200

// Size returns the length of the entries of a generation in bytes.
func (a *Advert) Size(generation uint64) int {
	if generation%2 != 0 {
		return a.Entries / 2 * advertEntry
	}
	return a.Entries * advertEntry
}

// Entry returns the KBUGCHECK_REMOVE_PAGES structure of index i in a
// generation.
func (a *Advert) Entry(generation uint64, i int) [advertEntry]byte {
	var b [advertEntry]byte
	if generation%2 != 0 {
		i += a.Entries
	}
	le.PutUint64(b[:], generation)
	le.PutUint32(b[entryFlags:], flagVirtual)
	le.PutUint64(b[entryAddress:], uint64(a.Pages)+uint64(i)*phys.PageSize)
	le.PutUint64(b[entryCount:], 1)
	return b
}

// ErrTorn says that entries are not those of one generation.
var ErrTorn = errors.New("the advertised entries are of different generations")

// Check returns the generation that entries, all of a table's in use, are of.
// An error is ErrTorn.
func (a *Advert) Check(entries []byte) (uint64, error) {
	if len(entries) < advertEntry {
		return 0, fmt.Errorf("%d bytes of entries: %w", len(entries), ErrTorn)
	}
	generation := le.Uint64(entries)
	if want := a.Size(generation); len(entries) != want {
		return 0, fmt.Errorf("%d bytes of entries of generation %d, which has %d: %w", len(entries), generation, want, ErrTorn)
	}
	for i := range len(entries) / advertEntry {
		if got := [advertEntry]byte(entries[i*advertEntry:]); got != a.Entry(generation, i) {
			return 0, fmt.Errorf("entry %d is not of generation %d, as the first is: %w", i, generation, ErrTorn)
		}
	}
	return generation, nil
}

// check makes sure that the guest can do what is asked of it.
func (a *Advert) check(t tables, regs []phys.Registers) error {
	switch {
	case a.Entries < 2 || a.Entries%2 != 0 || a.Entries > maxAdvert:
		return fmt.Errorf("advertise by %d entries: not an even number up to %d", a.Entries, maxAdvert)
	case a.CPU < 0 || a.CPU >= len(regs) || regs[a.CPU].UserMode():
		return fmt.Errorf("advertise from vCPU %d of %d: it must be one in kernel mode", a.CPU, len(regs))
	}
	var header [advertHeader]byte
	if err := t.read(header[:], a.Table); err != nil {
		return fmt.Errorf("advertised table: %w", err)
	}
	if n := le.Uint32(header[advertCapacity:]); string(header[:len(advertMagic)]) != advertMagic || n < uint32(a.Entries) {
		return fmt.Errorf("advertised table begins with %x and has room for %d entries; %d are to come", header[:len(advertMagic)], n, a.Entries)
	}
	return t.mustWrite(a.Table, advertHeader+a.Size(0))
}

// putBlock tells the processor by its run block.
func (a *Advert) putBlock(b []byte) {
	le.PutUint64(b[blockAdvert:], uint64(a.Table))
	le.PutUint64(b[blockEntries:], uint64(a.Entries))
	le.PutUint64(b[blockAdvertPages:], uint64(a.Pages))
	le.PutUint64(b[blockLinger:], linger)
}
