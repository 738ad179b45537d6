package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManCommand is what packages make the manual pages with: one for the program and
// one for each command that people see, by the name that the program was called by.
func newManCommand(*app) *cobra.Command {
	return &cobra.Command{
		Use:         "man FOLDER",
		Short:       "Write the manual pages into a folder",
		Hidden:      true,
		Args:        oneArg("FOLDER"),
		Annotations: exitCodes(),
		Example:     "  SOURCE_DATE_EPOCH=0 snap man man1",
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("make the folder for manual pages: %w", err)
			}
			forManual(root)
			header := doc.GenManHeader{Section: "1", Source: root.Name() + " " + version, Manual: "Crash dumps of Windows guests"}
			if err := doc.GenManTree(root, &header, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}

// forManual makes the help texts of a command, and of those below it, Markdown, of which
// the pages are made, and adds what the help says besides: environment and exit codes.
func forManual(cmd *cobra.Command) {
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	long = markdown(long) + "\n\n# ENVIRONMENT\n" +
		markdown("Every flag can also be given as an environment variable: --log-format is SNAP_LOG_FORMAT.")
	if codes := cmd.Annotations["exit"]; codes != "" {
		long += "\n\n# EXIT STATUS\n" + markdown(codes)
	}
	cmd.Long = long
	for _, sub := range cmd.Commands() {
		forManual(sub)
	}
}

// markdown is plain text as Markdown: nothing in it is markup, and lines that begin
// with a space stay lines of their own.
func markdown(text string) string {
	var b strings.Builder
	indented := false
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		was := indented
		indented = strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
		if was != indented && b.Len() > 0 {
			b.WriteByte('\n')
		}
		if indented {
			b.WriteString("    " + line)
			continue
		}
		b.WriteString(markup.Replace(line))
	}
	return b.String()
}

// markup escapes the characters that mean something within a line of Markdown.
var markup = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "]", `\]`, "<", `\<`, "#", `\#`)
