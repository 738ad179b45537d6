package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/hv"
	"snap/store"
)

func newHeaderCommand(a *app) *cobra.Command {
	var in inputOptions
	var output string
	var force bool
	cmd := &cobra.Command{
		Use:   "header [flags] SOURCE",
		Short: "Write only the dump header, before any page is written",
		Long: `Write the 8 KiB header that a dump of SOURCE would begin with: what a driver in
the guest would get from KeInitializeCrashDumpHeader. SOURCE is a domain, or a
file (an ELF core, a raw image, a dump). A running guest is not paused. The
header holds for as long as the guest's memory ranges don't change.`,
		Args: oneArg("SOURCE"),
		Annotations: exitCodes(exitNoDomain, exitDenied, exitNotWindows, exitConfidential, exitNoSpace,
			exitBusy, exitUnsupported),
		Example: "  snap header web01 -o web01.hdr\n  snap header web01 | xxd | head",
		RunE: func(cmd *cobra.Command, args []string) error {
			buf, err := a.headerOf(cmd.Context(), args[0], &in)
			if err != nil {
				return fmt.Errorf("header of %s: %w", args[0], err)
			}
			return a.writeFile(cmd.Context(), output, buf, force)
		},
	}
	addConnectFlag(cmd, a)
	in.addTo(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", stdoutDestination, "`file`, or - for standard output")
	cmd.Flags().BoolVar(&force, "force", false, "replace an existing output file")
	return cmd
}

// headerOf makes the header for a domain or a file.
func (a *app) headerOf(ctx context.Context, source string, in *inputOptions) ([]byte, error) {
	isFile, err := namesFile(source)
	if err != nil {
		return nil, err
	}
	if !isFile && !in.raw {
		vm, closeVM, err := a.openDomain(ctx, source)
		if err != nil {
			return nil, err
		}
		defer closeVM()
		if _, err := readable(ctx, vm); err != nil {
			return nil, err
		}
		return a.lookHeader(ctx, vm)
	}
	src, old, err := openInput(source, in)
	if err != nil {
		return nil, err
	}
	if old != nil {
		defer old.Close()
		return old.RawHeader(), nil
	}
	defer src.Close()
	return a.lookHeader(ctx, src)
}

func (a *app) lookHeader(ctx context.Context, src hv.Source) ([]byte, error) {
	s, err := a.look(ctx, src, hv.MechanismAuto)
	if err != nil {
		return nil, err
	}
	for _, w := range s.Warnings {
		a.log.Warn().Msg(w)
	}
	return s.Plan.Header, nil
}

// look surveys a source as it is right now.
func (a *app) look(ctx context.Context, src hv.Source, m hv.Mechanism) (_ *capture.Survey, err error) {
	mem, err := src.OpenMemory(ctx, m)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	return lookAt(ctx, src, mem, capture.Options{Comment: comment()})
}

func lookAt(ctx context.Context, src hv.Source, mem hv.Memory, o capture.Options) (*capture.Survey, error) {
	cpus, err := src.Registers(ctx)
	if err != nil {
		return nil, err
	}
	return capture.Look(ctx, mem, mem.RAM(), cpus, o)
}

// namesFile reports whether source is a file rather than a domain: something
// of that name exists, or it is spelled like a path.
func namesFile(source string) (bool, error) {
	info, err := os.Stat(source)
	switch {
	case err == nil:
		return info.Mode().IsRegular(), nil
	case errors.Is(err, fs.ErrNotExist) && !strings.Contains(source, "/"):
		return false, nil
	default:
		return false, err
	}
}

// writeFile puts a small file in its place, or on standard output.
func (a *app) writeFile(ctx context.Context, path string, b []byte, force bool) error {
	if path == stdoutDestination && isTerminal(a.stdout) {
		return usageError("standard output is a terminal: name a file with -o")
	}
	place, name, err := store.Open(path, store.Options{Force: force, NoSum: true, Stdout: a.stdout})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return putFile(ctx, place, name, b)
}
