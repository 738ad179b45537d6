package ntlab

import (
	"slices"

	"snap/phys"
)

// Attack is a way in which a hostile or broken guest, or what reads it, could deceive
// who reads its memory, and what must come of that.
type Attack struct {
	Name string
	// About says what is done.
	About string

	// Outcome is what a careful reader makes of it in a guest that is sound otherwise,
	// and Says what the warning, or the reason of the refusal, says in part.
	Outcome Outcome
	Says    string

	// Edit changes the guest's memory. It may be used together with others.
	Edit func(*Image) error
	// Registers changes what the processors' registers are said to be; nil for not.
	Registers func(im *Image, cpus []phys.Registers) []phys.Registers
	// Reader is how the guest's memory is read after Edit; nil for as it is.
	Reader func(im *Image) phys.Reader
}

// Outcome is what must come of an attack.
type Outcome int

// Outcomes.
const (
	Found    Outcome = iota // all that Truth says
	Warned                  // the guest, with a warning
	Degraded                // the guest, without something that debuggers need
	Refused                 // no guest, for a reason
	Any                     // whichever: it depends on chance
)

func (o Outcome) String() string {
	return [...]string{"found", "found with a warning", "degraded", "refused", "any"}[o]
}

// Attacks are the hostile variants of an image, by edits of its memory alone.
func Attacks() []Attack {
	return slices.Concat(listAttacks(), memoryAttacks(), endlessAttacks(), tableAttacks(), imageAttacks(), kdbgAttacks(), forgedAttacks(), processorAttacks())
}

// ReadingAttacks are those that need more than an edit: registers that lie, pages that
// can't be read, memory that changes while it is read.
func ReadingAttacks() []Attack {
	return slices.Concat(registerAttacks(), unreadableAttacks(), changingAttacks())
}

// edited is an attack by an edit.
func edited(name, about string, outcome Outcome, says string, edit func(*Image) error) Attack {
	return Attack{Name: name, About: about, Outcome: outcome, Says: says, Edit: edit}
}
