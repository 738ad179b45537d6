package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// call is the command that ran, as far as advice speaks of it: nobody is told to
// use a flag that the command doesn't have, or that was given already. The zero
// value is a command of which nothing is known.
type call struct {
	cmd     *cobra.Command
	operand string // the domain or file that it is about, "" if there is none
	connect string // the connection, "" where it goes without saying
}

// firstIsInput annotates a command that takes more than one operand, of which the first
// is the file that it is about.
const firstIsInput = "first-is-input"

// program is the name by which the program was called.
func (c call) program() string {
	if c.cmd == nil {
		return ownName
	}
	return c.cmd.Root().Name()
}

// callOf is the call of a command with its arguments.
func (a *app) callOf(cmd *cobra.Command, args []string) call {
	c := call{cmd: cmd}
	if len(args) == 1 || len(args) > 1 && cmd.Annotations[firstIsInput] != "" {
		c.operand = args[0]
	}
	if f := cmd.Flags().Lookup("connect"); f != nil && f.Changed {
		c.connect = a.connect
	}
	return c
}

// has reports whether the command takes a flag.
func (c call) has(flag string) bool { return c.cmd != nil && c.cmd.Flags().Lookup(flag) != nil }

// value is what a flag was given, or is by default; "" if there is no such flag.
func (c call) value(flag string) string {
	if !c.has(flag) {
		return ""
	}
	return c.cmd.Flags().Lookup(flag).Value.String()
}

// domain is what the command calls its domain.
func (c call) domain() string {
	if c.operand == "" || !c.has("connect") {
		return "DOMAIN"
	}
	return c.operand
}

// file is the command's input.
func (c call) file() string {
	if c.operand == "" || c.has("connect") && !c.has("raw") {
		return "FILE"
	}
	return c.operand
}

// snap is a command of this program's to copy, on the same connection.
func (c call) snap(command string, operands ...string) string {
	return shellCommand("snap "+command, c.on(), operands...)
}

// virsh is a command of virsh's, with its flags, about the same domain, on the same
// connection.
func (c call) virsh(command string) string {
	uri := c.connect
	if uri == "" {
		uri = c.value("connect")
	}
	var flags []string
	if uri != "" {
		flags = append(flags, "-c", uri)
	}
	return shellCommand("virsh", append(flags, strings.Fields(command)...), c.domain())
}

// on is the flag for the connection, where one was given.
func (c call) on() []string {
	if c.connect == "" {
		return nil
	}
	return []string{"-c", c.connect}
}
