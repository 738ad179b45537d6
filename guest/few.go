package guest

// maxAlike bounds the warnings of one kind, of which a guest decides how many there
// are.
const maxAlike = 16

// fewWarnings are warnings of one kind: the first are given, the rest are counted.
type fewWarnings struct {
	sys  *System
	what string // of those that are counted, for people, after their number and "more"
	n    int
}

// few begins warnings of one kind, which end with end.
func (s *System) few(what string) *fewWarnings { return &fewWarnings{sys: s, what: what} }

func (w *fewWarnings) warn(format string, args ...any) {
	if w.n++; w.n <= maxAlike {
		w.sys.warn(format, args...)
	}
}

func (w *fewWarnings) end() {
	if more := w.n - maxAlike; more > 0 {
		w.sys.warn("%d more %s", more, w.what)
	}
}
