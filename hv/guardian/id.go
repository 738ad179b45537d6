package guardian

import (
	"crypto/rand"
	"fmt"
	"strings"

	"snap/hv"
)

// idLength is how many characters a run's name has: 80 bits that nobody guesses.
const idLength = 16

// newID returns the name of a new run.
func newID() string { return strings.ToLower(rand.Text()[:idLength]) }

// checkID fails unless id is such a name: 16 characters of the base32 alphabet in
// lower case (RFC 4648). It becomes a part of paths that are removed, and where it
// comes from, a domain's metadata or a state file, others may have written it.
func checkID(id string) error {
	bad := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }
	if len(id) != idLength || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%w: %.40q is not the name of a dump", hv.ErrFormat, id)
	}
	return nil
}
