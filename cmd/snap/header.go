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
	"snap/input"
	"snap/store"
)

func newHeaderCommand(a *app) *cobra.Command {
	var in inputFlags
	var to outputFlags
	cmd := &cobra.Command{
		Use:   "header [flags] SOURCE",
		Short: "Write only the dump header, before any page is written",
		Long: `Write the 8 KiB header that a dump of SOURCE would begin with: what a driver in
the guest would get from KeInitializeCrashDumpHeader. SOURCE is a domain, or a
file (whatever snap convert takes). A running guest is not paused. The
header holds for as long as the guest's memory ranges don't change.`,
		Args: oneArg("SOURCE"),
		Annotations: exitCodes(exitNoDomain, exitDenied, exitNotWindows, exitConfidential, exitNoSpace,
			exitBusy, exitUnsupported),
		Example: "  snap header web01 -o web01.hdr\n  snap header web01 | xxd | head",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.header(cmd.Context(), args[0], &in, &to); err != nil {
				return fmt.Errorf("header of %s: %w", args[0], err)
			}
			return nil
		},
	}
	addConnectFlag(cmd, a)
	in.addTo(cmd)
	to.addTo(cmd, stdoutDestination, "; {domain} and {time} stand for those")
	return cmd
}

// header is snap header.
func (a *app) header(ctx context.Context, source string, in *inputFlags, o *outputFlags) error {
	kinds := []fileKind{headerFile()}
	if err := o.check(a, kinds); err != nil {
		return err
	}
	from, err := a.headerSource(ctx, source, in)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := o.target(a, from.of, kinds)
	if err != nil {
		return err
	}
	place, name, err := to.open(a, store.Options{Force: o.force, NoSum: true})
	if err != nil {
		return err
	}
	if err := place.Check(ctx, name); err != nil {
		return err
	}
	header := from.header
	if header == nil {
		if header, err = a.lookHeader(ctx, from.guest); err != nil {
			return err
		}
	}
	return store.WriteFile(ctx, place, name, header)
}

// headerSource is what a header is of.
type headerSource struct {
	of     subject
	header []byte    // of a dump, which has one
	guest  hv.Source // else
	close  func()
}

// headerSource opens a domain or a file.
func (a *app) headerSource(ctx context.Context, source string, in *inputFlags) (*headerSource, error) {
	isFile, err := namesFile(source)
	if err != nil {
		return nil, err
	}
	if !isFile && !in.raw {
		vm, closeVM, err := a.openDomain(ctx, source)
		if err != nil {
			return nil, err
		}
		if _, err := readable(ctx, vm); err != nil {
			closeVM()
			return nil, err
		}
		return &headerSource{of: ofDomain(vm.Identity().Name), guest: vm, close: closeVM}, nil
	}
	given, err := openInput(source)
	if err != nil {
		return nil, err
	}
	src, old, err := a.openGuest(ctx, given, in, "")
	switch {
	case err != nil:
		return nil, err
	case old != nil:
		return &headerSource{of: ofFile(source), header: old.RawHeader(), close: func() { _ = old.Close() }}, nil
	default:
		return &headerSource{of: ofFile(source), guest: src, close: func() { _ = src.Close() }}, nil
	}
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

// namesFile reports whether source is a file rather than a domain: something of
// that name exists, but no folder, or it is spelled like a path.
func namesFile(source string) (bool, error) {
	if source == input.Stdin || strings.Contains(source, "/") {
		return true, nil
	}
	info, err := os.Stat(source)
	switch {
	case err == nil:
		return !info.IsDir(), nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	default:
		return false, err
	}
}
