package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"snap/cmd/snap/internal/outlet"
)

// Formats of the log.
const (
	logConsole = "console"
	logJSON    = "json"
)

// setUpLog makes the logger that the flags ask for. Everything that is not
// data goes to standard error.
func (a *app) setUpLog() error {
	if a.quiet && a.verbose {
		return usageError("--quiet and --verbose exclude each other")
	}
	switch {
	case a.json:
		a.logFormat = logJSON
	case a.logFormat == "" && isTerminal(a.stderr):
		a.logFormat = logConsole
	case a.logFormat == "":
		a.logFormat = logJSON
	case a.logFormat != logConsole && a.logFormat != logJSON:
		return wrongValue("log-format", a.logFormat, "console or json")
	}
	level := zerolog.InfoLevel
	if a.verbose {
		level = zerolog.DebugLevel
	}
	if a.quiet {
		level = zerolog.ErrorLevel
	}
	if m, ok := a.stderr.(*outlet.Messages); ok && a.logFormat == logJSON {
		m.Note(func(lost int) string {
			return fmt.Sprintf(`{"level":"warn","lost":%d,"message":"messages were lost: nobody read them"}`+"\n", lost)
		})
	}
	if a.logFormat == logJSON {
		a.log = zerolog.New(a.stderr).Level(level).With().Timestamp().Logger()
		return nil
	}
	console := zerolog.ConsoleWriter{Out: a.stderr, NoColor: !isTerminal(a.stderr), TimeFormat: time.TimeOnly}
	a.log = zerolog.New(console).Level(level).With().Timestamp().Logger()
	return nil
}

// printError tells the operator what went wrong and, on a line of its own,
// what to do next.
func (a *app) printError(err error, advice string, code int) {
	looked := lookedForIn(err)
	if a.logFormat == logJSON && a.started {
		e := a.log.Error().Int("exit_code", code)
		if looked != nil {
			e = e.Interface("search", looked)
		}
		if advice != "" {
			e = e.Str("next", advice)
		}
		e.Msg(errorAsCalled(a.call.program(), err))
		return
	}
	if looked != nil && a.verbose {
		looked.print(a.stderr)
	}
	fmt.Fprintf(a.stderr, "%s: %s\n", a.call.program(), errorAsCalled(a.call.program(), err))
	if advice != "" {
		fmt.Fprintf(a.stderr, "next: %s\n", strings.ReplaceAll(advice, "\n", "\n      "))
	}
}
