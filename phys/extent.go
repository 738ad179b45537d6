package phys

// Residence says whether virtual memory is in physical memory.
type Residence uint8

// The residences.
const (
	Absent     Residence = iota // it is not in physical memory
	Resident                    // it is, at a known address
	Unresolved                  // it may be: page tables alone don't say where
)

func (r Residence) String() string {
	switch r {
	case Absent:
		return "absent"
	case Resident:
		return "resident"
	default:
		return "unresolved"
	}
}

// Extent is a stretch of virtual memory of which the same is to be said: from
// the address that was asked for, Size bytes, at least 1. If it is Resident, it
// is the Size bytes of guest-physical memory from At on, which need not be RAM.
type Extent struct {
	Residence Residence
	At        Addr
	Size      uint64
}
