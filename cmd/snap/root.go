package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"snap/cmd/snap/internal/limits"
	"snap/cmd/snap/internal/outlet"
	"snap/dump"
	"snap/input"
)

// app is what all subcommands share for one run of the program.
type app struct {
	stdout, stderr io.Writer
	log            zerolog.Logger

	connect   string
	quiet     bool
	verbose   bool
	logFormat string
	json      bool
	s3        s3Flags

	requireEncryption bool // nothing of a guest's memory is written in clear

	identities   []string         // files with private keys, for encrypted inputs
	identityKeys []input.Identity // those in the first keysRead of them
	keysRead     int

	started bool // the command line was understood and a subcommand runs
	call    call // which one

	fromEnv map[string]string // variables that flags were set by
}

// run is the whole program but for the process and its name: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runWith(ctx, ownName, commands(), args, stdout, stderr)
}

// runWith is run by a name (of calledAs), with the given subcommands.
func runWith(ctx context.Context, name string, commands []func(*app) *cobra.Command, args []string, stdout, stderr io.Writer) int {
	messages := outlet.NewMessages(stderr)
	a := &app{stdout: outlet.NewResults(ctx, stdout), stderr: messages, log: zerolog.Nop()}
	root := newRoot(a, commands)
	rename(root, name)
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		a.call = call{cmd: cmd}
		if _, known := errors.AsType[*cmdError](err); !known {
			err = &cmdError{err: err, code: exitUsage}
		}
	}
	if e, ok := errors.AsType[*valueError](err); ok && a.fromEnv[e.flag] != "" {
		err = fmt.Errorf("environment variable %s: %w", a.fromEnv[e.flag], err)
	}
	code, advice := a.call.classify(err)
	if err != nil {
		a.printError(err, advice, code)
	}
	patience := lastWords
	if ctx.Err() != nil {
		patience = lastWordsInterrupted
	}
	messages.Drain(patience)
	return code
}

// How long the program waits, when all else is done, for somebody to read its
// messages: as long as somebody does, it goes on.
const (
	lastWords            = 5 * time.Second
	lastWordsInterrupted = time.Second
)

// newRoot returns the program with the given subcommands.
func newRoot(a *app, commands []func(*app) *cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   ownName,
		Short: "Crash dumps of running Windows guests, taken from the host",
		Long: `snap reads a running Windows guest's memory from the host, works out from that
memory alone what a crash dump header must say, and writes a compressed full
crash dump that WinDbg and others open after snap expand. Nothing is installed
in the guest, and nothing is downloaded.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := keepPrivate(); err != nil {
				return err
			}
			limits.Memory(dump.DefaultMemory) // commands that have --memory say it again
			if err := a.flagsFromEnv(cmd); err != nil {
				return err
			}
			if err := refuseEmptyTexts(cmd); err != nil {
				return err
			}
			if err := a.s3.export(); err != nil {
				return err
			}
			a.call = a.callOf(cmd, args)
			if err := a.setUpLog(); err != nil {
				return err
			}
			a.started = true
			return nil
		},
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Args:    noSuchCommand,
		Version: versionText(),
	}
	pf := root.PersistentFlags()
	pf.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing but errors, and what a dump lacks or holds against somebody's wish")
	pf.BoolVarP(&a.verbose, "verbose", "v", false, "print a debug log")
	pf.StringVar(&a.logFormat, "log-format", "", "console or json (default console on a terminal, else json)")
	a.s3.addTo(pf)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(helpTemplate)
	for _, newCommand := range commands {
		root.AddCommand(newCommand(a))
	}
	return root
}

// commands returns what makes each subcommand, in the order of the help.
func commands() []func(*app) *cobra.Command {
	return []func(*app) *cobra.Command{
		newDumpCommand,
		newCheckCommand,
		newListCommand,
		newHeaderCommand,
		newConvertCommand,
		newInfoCommand,
		newVerifyCommand,
		newExpandCommand,
		newMountCommand,
		newLsCommand,
		newPruneCommand,
		newRecoverCommand,
		newVersionCommand,
		newManCommand,
		newGuardianCommand,
		newGateCommand,
	}
}

// noSuchCommand is for words that no command has.
func noSuchCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := usageError("there is no command %q", args[0])
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if meant := didYouMean(args[0], names); meant != "" {
		err = next(err, "%s snap --help lists the commands", meant)
	}
	return err
}

// flagError says of a flag's value what the program says of it elsewhere, and of a
// flag that there is not which one was perhaps meant.
func flagError(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return badValue("--"+e.GetFlag().Name, e.GetFlag(), e.GetValue(), e.Unwrap())
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		var meant []string
		for _, n := range nearest(e.GetSpecifiedName(), names) {
			meant = append(meant, "--"+n)
		}
		if len(meant) > 0 {
			return next(usageError("%w", err), "did you mean %s? %s", alternatives(meant), call{cmd: cmd}.help())
		}
	}
	return err
}

// badValue is an error of a value that a flag can't take, by whatever name it was
// given: it says which values it takes.
func badValue(name string, f *pflag.Flag, value string, why error) error {
	if example, ok := flagExamples[f.Value.Type()]; ok {
		return usageError("%s is %q; it takes %s", name, value, example)
	}
	return usageError("%s is %q; %w", name, value, why)
}

// flagExamples say what flags of a type take, where the parser only says that it
// was wrong.
var flagExamples = map[string]string{
	"bool":     "true or false, such as =false",
	"int":      "a whole number, such as 4",
	"duration": "a time, such as 500ms, 10s or 5m",
}

// helpTemplate ends every help text with the exit codes and an example.
const helpTemplate = `{{with (or .Long .Short)}}{{.}}

{{end}}Usage:
  {{.UseLine}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}

Every flag can also be given as an environment variable: --log-format is SNAP_LOG_FORMAT.{{with index .Annotations "exit"}}

Exit codes:
{{.}}{{end}}{{if .HasExample}}

Example:
{{.Example}}{{end}}
`

// exitCodes is the annotation that help prints; codes are those a command can
// end with besides success, failure, usage and interruption.
func exitCodes(codes ...int) map[string]string {
	codes = append(codes, exitOK, exitFailed, exitUsage, exitInterrupted)
	slices.Sort(codes)
	var b strings.Builder
	for i, c := range slices.Compact(codes) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  %3d  %s", c, exitMeaning[c])
	}
	return map[string]string{"exit": b.String()}
}

// oneArg demands exactly one argument of the given name.
func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError("%s takes one %s, not %d arguments", cmd.CommandPath(), name, len(args))
		}
		return nil
	}
}

// flagsFromEnv fills flags that were not given from SNAP_* variables.
func (a *app) flagsFromEnv(cmd *cobra.Command) error {
	var err error
	a.fromEnv = map[string]string{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || err != nil {
			return
		}
		name := "SNAP_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v := os.Getenv(name); v != "" {
			if e := cmd.Flags().Set(f.Name, v); e != nil {
				err = envError(name, f, v, e)
			}
			a.fromEnv[f.Name] = name
		}
	})
	return err
}

// envError is the error of a flag's value that came by an environment variable.
func envError(name string, f *pflag.Flag, value string, err error) error {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		err = e.Unwrap()
	}
	return badValue("environment variable "+name, f, value, err)
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f := outlet.File(w)
	return f != nil && term.IsTerminal(int(f.Fd()))
}
