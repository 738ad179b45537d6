package main

import (
	"strings"

	"snap/hv"
)

// stateAdvice is what an operator does about a domain in a state, with commands that
// can be copied; empty if there is nothing to do.
func stateAdvice(s hv.State, id hv.Identity) string {
	return strings.NewReplacer(
		"{domain}", shellWord(id.Name),
		"{virsh}", "virsh -c "+shellWord(id.URI),
	).Replace(s.Condition().Next)
}
