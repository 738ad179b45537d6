package main

import "strings"

// longTime says a number of seconds as a person does, in its two largest units: 3 days 4
// hours.
func longTime(seconds uint64) string {
	var parts []string
	for _, u := range []struct {
		name string
		size uint64 // seconds
	}{{"day", 24 * 60 * 60}, {"hour", 60 * 60}, {"minute", 60}, {"second", 1}} {
		n := seconds / u.size
		seconds %= u.size
		if n > 0 {
			parts = append(parts, plural(int(n), u.name))
		} else if len(parts) > 0 {
			break // 3 days, not 3 days 5 seconds
		}
		if len(parts) == 2 {
			break
		}
	}
	if len(parts) == 0 {
		return "less than a second"
	}
	return strings.Join(parts, " ")
}
