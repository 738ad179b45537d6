package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shellWord is s as one word of a command that is copied into a POSIX shell, in
// characters that a terminal shows and nothing else: names of domains and files may
// have any others in them, which must neither be lost nor reach the terminal.
//
// Libraries for that (al.essio.dev/pkg/shellescape, mvdan.cc/sh's syntax.Quote) put
// out control characters as they are, or need bash.
func shellWord(s string) string {
	switch {
	case s != "" && strings.Trim(s, plainCharacters) == "":
		return s
	case strings.ContainsFunc(s, unshown) || !utf8.ValidString(s):
		return printed(s)
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// plainCharacters mean nothing to a shell, wherever they are in a word.
const plainCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-"

// unshown reports whether a terminal doesn't show r as itself.
func unshown(r rune) bool { return !unicode.IsPrint(r) }

// printed has the shell's printf make s. A newline at the very end, which the
// substitution would drop, is put behind it by IFS, whose last character it is
// (POSIX.1 XCU 2.5.3).
func printed(s string) string {
	body := strings.TrimRight(s, "\n")
	var b strings.Builder
	b.WriteString(`"$(printf '`)
	if strings.HasPrefix(body, "-") { // no option of printf's
		b.WriteString(`\055`)
		body = body[1:]
	}
	for len(body) > 0 {
		r, n := utf8.DecodeRuneInString(body)
		switch {
		case r == utf8.RuneError && n <= 1 || unshown(r):
			for _, c := range []byte(body[:n]) {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		case r == '\\' || r == '\'':
			fmt.Fprintf(&b, `\%03o`, r)
		case r == '%':
			b.WriteString("%%")
		default:
			b.WriteRune(r)
		}
		body = body[n:]
	}
	b.WriteString(`')`)
	if lost := len(s) - len(strings.TrimRight(s, "\n")); lost > 0 {
		b.WriteString(strings.Repeat(`${IFS#??}`, lost))
	}
	b.WriteString(`"`)
	return b.String()
}

// shellCommand is a command to copy. A word that begins with "-" and is none of the
// command's flags is an operand: where there is one, operands follow "--".
func shellCommand(command string, flags []string, operands ...string) string {
	words := []string{command}
	for _, f := range flags {
		words = append(words, shellWord(f))
	}
	for _, o := range operands {
		if strings.HasPrefix(o, "-") && o != stdoutDestination {
			words = append(words, "--")
			break
		}
	}
	for _, o := range operands {
		words = append(words, shellWord(o))
	}
	return strings.Join(words, " ")
}

// shellPath is a path as one word of a command, which is not taken for a flag.
func shellPath(path string) string {
	if strings.HasPrefix(path, "-") {
		path = "./" + path
	}
	return shellWord(path)
}
