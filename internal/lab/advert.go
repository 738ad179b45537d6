package lab

import (
	"encoding/binary"

	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
)

// advertDriver is the driver whose table changes all the time.
const advertDriver = "changing.sys"

// advertOffset is where in its first page the table begins: its header and
// its entries straddle pages.
const advertOffset = 0xFE8

// advertise loads the driver, with entries of generation 0, and says which
// processor goes on from there: one that doesn't keep time, if it can be.
func advertise(im *ntlab.Image, s Spec, timekeeper int) (*boot.Advert, error) {
	a := &boot.Advert{Entries: s.Advert}
	switch {
	case s.UserMode: // vCPU 0 alone is in the kernel
	case timekeeper == 0 && s.CPUs > 1:
		a.CPU = 1
	}
	var err error
	if a.Pages, err = im.AllocPages(2 * s.Advert); err != nil {
		return nil, err
	}
	table := &ntlab.Advert{Offset: advertOffset}
	for i := range s.Advert {
		e, le := a.Entry(0, i), binary.LittleEndian
		table.Entries = append(table.Entries, ntlab.RemovePages{
			Context: le.Uint64(e[:]), Flags: le.Uint32(e[0x08:]), Address: le.Uint64(e[0x10:]), Count: le.Uint64(e[0x18:]),
		})
	}
	made, err := im.Advertise(advertDriver, table)
	a.Table = made.Symbol
	return a, err
}
