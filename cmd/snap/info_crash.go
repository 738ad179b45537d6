package main

import (
	"fmt"
	"strings"

	"snap/cmd/snap/internal/table"
	"snap/guest"
	"snap/header"
	"snap/manifest"
)

// crashInfo says whether the guest in a dump shows its blue screen.
type crashInfo struct {
	// Crashed is missing where it isn't known.
	Crashed *bool `json:"crashed,omitempty"`
	// From is what says so: the guest's memory, or the dump's header alone.
	From string `json:"from,omitempty"`

	Code       manifest.Hex   `json:"code"` // that the dump carries; 0 for none
	Name       string         `json:"name,omitempty"`
	Parameters []manifest.Hex `json:"parameters,omitempty"`
}

// Where it is known from whether a guest had crashed.
const (
	crashFromMemory = "the guest's memory"
	crashFromHeader = "the dump's header"
)

// crashOf says whether the guest had crashed. What its memory says counts for more
// than the header, which may carry any code; sys is nil where it can't be read. The
// note is not empty if the two contradict each other.
func crashOf(h *header.Header, sys *guest.System) (c *crashInfo, note string) {
	c = &crashInfo{}
	if h.IsSet("BugCheckCode") {
		c.set(h.BugCheckCode, h.BugCheckParameter)
	}
	if sys != nil && sys.BugCheck.Code.From != "" {
		code := uint32(sys.BugCheck.Code.Value)
		crashed := sys.BugCheck.Code.Value != 0
		said := c.Code
		c.Crashed, c.From = &crashed, crashFromMemory
		if crashed {
			var p [4]uint64
			for i, v := range sys.BugCheck.Parameter {
				p[i] = v.Value
			}
			c.set(code, p)
		}
		if said != 0 && (crashed && said != c.Code || !crashed && !header.LiveBugCheck(uint32(said))) {
			note = fmt.Sprintf("the header says bug check %v; the guest's memory (KiBugcheckData) says %#x", said, sys.BugCheck.Code.Value)
		}
		return c, note
	}
	if c.Code != 0 {
		crashed := !header.LiveBugCheck(uint32(c.Code))
		c.Crashed, c.From = &crashed, crashFromHeader
	}
	return c, ""
}

func (c *crashInfo) set(code uint32, parameters [4]uint64) {
	c.Code, c.Name, c.Parameters = manifest.Hex(code), header.BugCheckName(code), nil
	for _, p := range parameters {
		c.Parameters = append(c.Parameters, manifest.Hex(p))
	}
}

// addTo tells a person.
func (c *crashInfo) addTo(p *table.Pairs) {
	check := "bug check " + c.Code.String()
	if c.Name != "" {
		check += ", " + c.Name
	}
	by := ""
	if c.From == crashFromHeader {
		by = ", by the header alone"
	}
	switch {
	case c.Crashed == nil:
		p.Add("blue screen", "not known: neither the guest nor the header says")
	case !*c.Crashed && c.Code != 0:
		p.Add("blue screen", "none: the guest had not crashed%s (%s)", by, check)
	case !*c.Crashed:
		p.Add("blue screen", "none: the guest had not crashed")
	default:
		p.Add("blue screen", "%s: the guest had crashed%s", check, by)
		var parameters []string
		for _, v := range c.Parameters {
			parameters = append(parameters, v.String())
		}
		p.Add("", "parameters %s", strings.Join(parameters, " "))
	}
}
