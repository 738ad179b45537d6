package main

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
)

// Bounds on looking for what was meant: names come from a far host.
const (
	maxSuggestions = 3
	maxCandidates  = 4096
	maxNameLength  = 256
)

// nearest returns those of words that word may have been meant to be, the nearest
// first: another spelling of upper and lower case, its beginning, or a slip and
// another one for each four letters.
func nearest(word string, words []string) []string {
	type near struct {
		word string
		far  int
	}
	var all []near
	word = strings.ToLower(word)
	n := utf8.RuneCountInString(word)
	if n == 0 || n > maxNameLength {
		return nil
	}
	for _, w := range words[:min(len(words), maxCandidates)] {
		if len(w) > maxNameLength {
			continue
		}
		lower := strings.ToLower(w)
		far := levenshtein.ComputeDistance(word, lower)
		if transposed(word, lower) || n > 2 && strings.HasPrefix(lower, word) {
			far = min(far, 1)
		}
		if far <= 1+n/4 && far < n {
			all = append(all, near{w, far})
		}
	}
	slices.SortStableFunc(all, func(a, b near) int { return a.far - b.far })
	var out []string
	for _, c := range all {
		if c.far > all[0].far || len(out) == maxSuggestions {
			break
		}
		out = append(out, c.word)
	}
	return out
}

// transposed reports whether a and b differ by two neighbours that changed places.
func transposed(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i+1 < len(a); i++ {
		if a[i] != b[i] {
			return a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
		}
	}
	return false
}

// didYouMean is a question after the words that were perhaps meant, "" if there are
// none.
func didYouMean(word string, words []string) string {
	var quoted []string
	for _, w := range nearest(word, words) {
		quoted = append(quoted, shellWord(w))
	}
	if len(quoted) == 0 {
		return ""
	}
	return "did you mean " + alternatives(quoted) + "?"
}
