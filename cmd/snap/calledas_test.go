package main

import (
	"errors"
	"testing"
)

// TestCalledAs: the program has the name that it was called by, if a command can be
// written with it.
func TestCalledAs(t *testing.T) {
	for arg0, want := range map[string]string{
		"snap":               "snap",
		"/usr/bin/memsnap":   "memsnap",
		"./snap-1.2":         "snap-1.2",
		"":                   "snap",
		"/":                  "snap",
		"..":                 "snap",
		"-snap":              "snap",
		"/opt/my snap":       "snap",
		"/opt/$(reboot)":     "snap",
		"/opt/\x1b[31msnap":  "snap",
		"/opt/snap/memsnap/": "memsnap",
	} {
		if got := calledAs(arg0); got != want {
			t.Errorf("calledAs(%q) = %q; want %q", arg0, got, want)
		}
	}
}

// TestAsCalled: commands to copy bear the name that the program was called by; what is
// quoted, and snap where no command of its is meant, stay.
func TestAsCalled(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"snap dump web01", "memsnap dump web01"},
		{"  snap recover\n  snap recover web01", "  memsnap recover\n  memsnap recover web01"},
		{"run snap list, then (snap check) it", "run memsnap list, then (memsnap check) it"},
		{"snap --help lists the commands, and snap COMMAND --help their flags", "memsnap --help lists the commands, and memsnap COMMAND --help their flags"},
		{"snap reads what others wrote; let snap choose", "snap reads what others wrote; let snap choose"},
		{"snap dump 'my snap dump'", "memsnap dump 'my snap dump'"},
		{`snap dump 'it'\''s a snap dump'`, `memsnap dump 'it'\''s a snap dump'`},
		{`no domain "a snap dump": snap list`, `no domain "a snap dump": memsnap list`},
		{"if it can't: snap recover; the guest's: snap list", "if it can't: memsnap recover; the guest's: memsnap list"},
		{"/backup/snap dump.zst", "/backup/snap dump.zst"},
		{"snap dumps", "snap dumps"},
	} {
		if got := asCalled("memsnap", tt.text); got != tt.want {
			t.Errorf("asCalled(%q) = %q; want %q", tt.text, got, tt.want)
		}
		if got := asCalled(ownName, tt.text); got != tt.text {
			t.Errorf("by its own name, asCalled(%q) = %q; want it unchanged", tt.text, got)
		}
	}
}

// TestEveryCommandAsCalled: no command is forgotten where a text is made to speak of the
// program by its name.
func TestEveryCommandAsCalled(t *testing.T) {
	for _, newCommand := range commands() {
		cmd := newCommand(new(app))
		if cmd.Hidden {
			continue
		}
		if got, want := asCalled("memsnap", "run snap "+cmd.Name()+" X"), "run memsnap "+cmd.Name()+" X"; got != want {
			t.Errorf("asCalled() = %q; want %q", got, want)
		}
	}
}

// TestErrorAsCalled: an error's own advice bears the name too; names of files don't.
func TestErrorAsCalled(t *testing.T) {
	for text, want := range map[string]string{
		"mark: remove it: snap recover --force":         "mark: remove it: memsnap recover --force",
		"left behind; run snap recover when snap ended": "left behind; run memsnap recover when snap ended",
		"snap expand needs -o":                          "memsnap expand needs -o",
		"open snap dump.zst: no such file":              "open snap dump.zst: no such file",
		"open /a snap recover: no such file":            "open /a snap recover: no such file",
	} {
		if got := errorAsCalled("memsnap", errors.New(text)); got != want {
			t.Errorf("errorAsCalled(%q) = %q; want %q", text, got, want)
		}
	}
}
