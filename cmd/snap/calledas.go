package main

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ownName is what the program is called where nothing else is known.
const ownName = "snap"

// calledAs is the name by which the program was called: the last element of its first
// argument. Where that is nothing to write into a command, it is ownName.
func calledAs(arg0 string) string {
	name := filepath.Base(arg0)
	if strings.Trim(name, plainCharacters) != "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, ".") || name == "/" {
		return ownName
	}
	return name
}

// ownCommands finds commands of this program's in a text, and what is quoted in it,
// which may be anybody's name for a domain or a file and isn't looked into.
var ownCommands = regexp.MustCompile(`"(?:[^"\\]|\\.)*"` +
	`|(?:^|[\s(=])'[^']*'(?:\\''[^']*')*` +
	`|(?:^|[\s(])snap (?:--help|COMMAND|dump|check|list|header|convert|info|verify|expand|ls|mount|prune|recover|version|help|completion)\b`)

// asCalled is text with this program's commands by the name that it was called by.
func asCalled(name, text string) string {
	if name == ownName {
		return text
	}
	return ownCommands.ReplaceAllStringFunc(text, func(found string) string {
		before, command, ok := strings.Cut(found, ownName+" ")
		if !ok || strings.Trim(before, " \t\r\n(") != "" {
			return found
		}
		return before + name + " " + command
	})
}

// errorAdvice finds commands of this program's in an error, where names of files stand
// without quotes: it takes none for a command.
var errorAdvice = regexp.MustCompile(`(^|: |; |run )snap (recover|expand)\b`)

// errorAsCalled is what an error says, with this program's commands by the name that it was
// called by.
func errorAsCalled(name string, err error) string {
	return errorAdvice.ReplaceAllString(err.Error(), "${1}"+name+" ${2}")
}

// rename gives the program its name, and has all help texts speak of it.
func rename(root *cobra.Command, name string) {
	root.Use = name
	renameHelp(root, name)
}

func renameHelp(cmd *cobra.Command, name string) {
	cmd.Short, cmd.Long, cmd.Example = asCalled(name, cmd.Short), asCalled(name, cmd.Long), asCalled(name, cmd.Example)
	flag := func(f *pflag.Flag) { f.Usage = asCalled(name, f.Usage) }
	cmd.Flags().VisitAll(flag)
	cmd.PersistentFlags().VisitAll(flag)
	for _, sub := range cmd.Commands() {
		renameHelp(sub, name)
	}
}
