package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"snap/capture"
)

// TestAddCommand: a command is a function and a line in commands. It has the
// flags of every command, its flags come from the environment too, its help ends
// with its exit codes, and its errors end the program with their codes.
func TestAddCommand(t *testing.T) {
	count := func(a *app) *cobra.Command {
		var what string
		cmd := &cobra.Command{
			Use:         "count [flags] THING",
			Short:       "Count things",
			Args:        oneArg("THING"),
			Annotations: exitCodes(exitNoDomain),
			Example:     "  snap count sheep",
			RunE: func(_ *cobra.Command, args []string) error {
				if args[0] != what {
					return next(fmt.Errorf("count %s: no such thing", args[0]), "count %s", what)
				}
				_, err := fmt.Fprintln(a.stdout, "one", what)
				return err
			},
		}
		cmd.Flags().StringVar(&what, "of", "sheep", "what there is")
		return cmd
	}
	for _, tt := range []struct {
		args   string
		env    string
		code   int
		stdout string // in it
		stderr string
	}{
		{"count sheep", "", exitOK, "one sheep\n", ""},
		{"count goats", "goats", exitOK, "one goats\n", ""},
		{"count goats --log-format console", "", exitFailed, "", "snap: count goats: no such thing\nnext: count sheep\n"},
		{"count", "", exitUsage, "", "snap count takes one THING"},
		{"count --help", "", exitOK, " 10  no such domain", ""},
		{"--help", "", exitOK, "Count things", ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Setenv("SNAP_OF", tt.env)
			var stdout, stderr bytes.Buffer
			code := runWith(t.Context(), ownName, append(commands(), count), strings.Fields(tt.args), &stdout, &stderr)
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit code %d; want %d\nstdout: %s\nstderr: %s", code, tt.code, stdout.String(), stderr.String())
			}
		})
	}
}

// TestCommands: every command that people see says what it does, its exit codes
// and an example.
func TestCommands(t *testing.T) {
	for _, newCommand := range commands() {
		cmd := newCommand(new(app))
		if cmd.Hidden {
			continue
		}
		if cmd.Short == "" || cmd.Example == "" || cmd.Annotations["exit"] == "" {
			t.Errorf("%s: short help %q, example %q, exit codes %q; want all", cmd.Name(), cmd.Short, cmd.Example, cmd.Annotations["exit"])
		}
	}
}

// TestWordsAreTheLibrarys: flags that take words take those of the library, in
// every command alike, and nothing else.
func TestWordsAreTheLibrarys(t *testing.T) {
	for _, args := range []string{
		"dump win10-22h2 -c lab:/// -o x --source bogus",
		"check win10-22h2 -c lab:/// --source bogus",
		"dump win10-22h2 -c lab:/// -o x --mode bogus",
		"dump win10-22h2 -c lab:/// -o x --format bogus",
		"check win10-22h2 -c lab:/// --format bogus",
		"convert x -o y --compress bogus",
		"convert x -o y --level bogus",
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "it can be ") || !strings.Contains(stderr.String(), "bogus") {
			t.Errorf("snap %s: exit code %d, stderr %q; want %d and the words that it takes", args, code, stderr.String(), exitUsage)
		}
	}
	cmd := newDumpCommand(new(app))
	for _, m := range capture.Modes() {
		if usage := cmd.Flag("mode").Usage; !strings.Contains(usage, m.Name()+": "+m.Doc()) {
			t.Errorf("help of --mode is %q; want %s in it", usage, m.Name())
		}
		if err := cmd.Flag("mode").Value.Set(m.Name()); err != nil {
			t.Errorf("--mode %s: %v", m.Name(), err)
		}
	}
}
