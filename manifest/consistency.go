package manifest

// Consistency says whether the pages of a dump are of one point in time.
type Consistency string

// What can be known of that. The empty string is an older manifest's, see
// Manifest.Moment.
const (
	// OnePointInTime: the guest stood still, or its memory of one moment was kept.
	OnePointInTime Consistency = "one point in time"
	// DifferentTimes: the guest ran while its pages were read.
	DifferentTimes Consistency = "different times"
	// NotKnown: the dump was made from a file that doesn't say.
	NotKnown Consistency = "not known"
)

// SetMoment sets what is known of the time that the pages are of. from is where
// that is known from, "" where the mode says it.
func (m *Manifest) SetMoment(c Consistency, from string) {
	m.Consistent, m.Consistency, m.ConsistencyFrom = c == OnePointInTime, c, from
}

// Moment returns what the manifest says of the time that the pages are of, and
// NotKnown where it contradicts itself or says nothing that this version knows.
//
// Until there was Consistency, a manifest said of every dump that was converted
// that it is of one point in time: of such a one, nothing is known.
func (m *Manifest) Moment() Consistency {
	switch {
	case m.Consistency == OnePointInTime && m.Consistent:
		return OnePointInTime
	case m.Consistency == DifferentTimes && !m.Consistent:
		return DifferentTimes
	case m.Consistency != "" || m.Mode == ModeConvert:
		return NotKnown
	case m.Consistent:
		return OnePointInTime
	case m.Mode == "live":
		return DifferentTimes
	default:
		return NotKnown
	}
}

// ModeConvert is the mode of a dump that was made from a file.
const ModeConvert = "convert"
