package ntlab

// AdvertAttack is an Attack by way of adverts: a guest with hostile ones.
// Image.Truth.Adverts has them afterwards.
type AdvertAttack struct {
	Attack
	// Want is what a correct reader makes of all of the attack's entries.
	Want AdvertOutcome
}

// AdvertOutcome counts what becomes of an attack's tables and their entries.
type AdvertOutcome struct {
	Tables   int // that are taken as they are
	Unstable int // tables that can't be read in one piece, however often they are read
	Broken   int // tables that are malformed: wrong magic, version, sizes, place

	Honoured int // entries whose pages stay out
	Refused  int // entries that are refused, each with a reason
	Ignored  int // entries that ask for nothing in this dump
	// Limited entries are beyond the limits that a reader must have somewhere;
	// they may be refused or, where its limits are generous, honoured.
	Limited int
	// TooMany: the honoured entries ask for more than half of the guest's RAM.
	TooMany bool
}

// AdvertAttacks are the hostile adverts. None of them keeps a careful reader
// from all that Truth says.
func AdvertAttacks() []AdvertAttack { return nil }
