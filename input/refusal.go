package input

import "fmt"

// Refusal is the error of a file that can't be used, because of what it is. Its
// text is about the file that Path names.
type Refusal struct {
	Path string // as it was named; empty where the caller opened the file
	What string // what the file is, such as "a FIFO" or "a qcow2 disk image"
	Why  string // why it can't be used

	// OtherGuest: the file is sound, and of a guest that snap doesn't understand.
	OtherGuest bool

	// Next is what an operator should do: a sentence in which FILE stands for the
	// file and OUT for a name to choose.
	Next string
}

func (e *Refusal) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("it is %s: %s", e.What, e.Why)
	}
	return fmt.Sprintf("%s is %s: %s", e.Path, e.What, e.Why)
}
