package phys

// Known is a value that was found in a guest and where it comes from. Both
// travel together, from where the value is chosen to the account of a dump.
type Known[T any] struct {
	Value T
	From  string // for people, such as "KDBG KiBugcheckData"; empty if the value is not known
}

// Know returns v with its origin.
func Know[T any](v T, from string) Known[T] { return Known[T]{v, from} }
