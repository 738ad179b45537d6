package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
	"snap/hv"
	"snap/store"
)

func newHeaderCommand(a *app) *cobra.Command {
	var in inputFlags
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
func (a *app) headerOf(ctx context.Context, source string, in *inputFlags) ([]byte, error) {
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

// lookHeader makes the header of a source as it is right now.
func (a *app) lookHeader(ctx context.Context, src hv.Source) (_ []byte, err error) {
	mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	cpus, err := src.Registers(ctx)
	if err != nil {
		return nil, err
	}
	an, err := capture.Analyze(ctx, mem, mem.RAM(), cpus, capture.LookOptions{Comment: comment()})
	if err != nil {
		return nil, err
	}
	for _, w := range an.Warnings {
		a.log.Warn().Msg(w)
	}
	return an.Plan.Header, nil
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
func (a *app) writeFile(ctx context.Context, dest string, b []byte, force bool) error {
	if dest == stdoutDestination && isTerminal(a.stdout) {
		return usageError("standard output is a terminal: name a file with -o")
	}
	place, name, err := a.place(dest, store.Options{Force: force, NoSum: true})
	if err != nil {
		return err
	}
	if name == "" {
		return usageError("-o is %q, a folder; name a file", dest)
	}
	f, err := place.Create(ctx, name)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", dest, err), f.Abort())
	}
	return f.Commit(ctx)
}
