package main

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run the real program as the command snap.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"snap": main})
}

// TestScripts runs the scenarios of testdata/script: the command line against
// the built-in lab guests and against files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("LIBVIRT_DEFAULT_URI", "lab:///")
			env.Setenv("SNAP_MAX_PAUSE", "5m") // what a pause may take is not what scripts are about
			return nil
		},
	})
}

// exits runs a program and demands its exit code: exits 10 snap dump nobody.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("%v exited with %d; want %d", args[1:], got, want)
	}
}
