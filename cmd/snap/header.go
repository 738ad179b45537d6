package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
	"snap/dump"
	"snap/hv"
	"snap/input"
	"snap/store"
)

func newHeaderCommand(a *app) *cobra.Command {
	var in inputFlags
	var look lookFlags
	var to outputFlags
	cmd := &cobra.Command{
		Use:   "header [flags] SOURCE",
		Short: "Write only the dump header, before any page is written",
		Long: `Write the 8 KiB header that a dump of SOURCE would begin with: what a driver in
the guest would get from KeInitializeCrashDumpHeader. SOURCE is a domain, or a
file (whatever snap convert takes). A running guest is not paused. The
header holds for as long as the guest's memory ranges don't change.`,
		Args: oneArg("SOURCE"),
		Annotations: exitCodes(exitDegraded, exitNoDomain, exitDenied, exitNotWindows, exitConfidential, exitNoSpace, exitUpload,
			exitBusy, exitUnsupported, exitUnmet),
		Example: "  snap header web01 -o web01.hdr\n  snap header web01 | xxd | head",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.header(cmd.Context(), args[0], &in, &look, &to); err != nil {
				return fmt.Errorf("header of %s: %w", args[0], err)
			}
			return nil
		},
	}
	addConnectFlag(cmd, a)
	in.addTo(cmd)
	addIdentityFlag(cmd, a)
	addRequireFlag(cmd, a, "refuse, as a header has a processor's registers, in clear")
	look.addTo(cmd)
	to.addTo(cmd, stdoutDestination, "; {domain} and {time} stand for those")
	return cmd
}

// header is snap header.
func (a *app) header(ctx context.Context, source string, in *inputFlags, l *lookFlags, o *outputFlags) error {
	if err := a.mayWriteClear(); err != nil {
		return err
	}
	look, err := l.options()
	if err != nil {
		return err
	}
	kinds := []fileKind{headerFile()}
	if err := o.check(a, kinds); err != nil {
		return err
	}
	from, err := a.headerSource(ctx, source, in)
	if err != nil {
		return err
	}
	defer from.close()
	place, name, err := o.placeFor(ctx, a, from.of, kinds)
	if err != nil {
		return err
	}
	if from.header != nil {
		if err := l.notForDumps(); err != nil {
			return err
		}
		return store.WriteFile(ctx, place, name, from.header)
	}
	look.Progress = new(dump.Progress)
	stop := a.showProgress(string(capture.PhaseLook), "looking at "+from.of.name, look.Progress)
	an, err := lookAt(ctx, from.guest, look)
	stop()
	if err != nil {
		return err
	}
	if err := store.WriteFile(ctx, place, name, an.Plan.Header); err != nil {
		return err
	}
	a.warnOf(slices.Concat(hv.NotesOf(from.guest), an.Warnings), an.Contents, an.Degraded())
	if an.Degraded() {
		return &cmdError{err: errHeaderDegraded, code: exitDegraded, next: "read the warnings above; snap check tells more"}
	}
	return nil
}

// errHeaderDegraded ends a command that wrote the header of a dump that would not be
// what it should be.
var errHeaderDegraded = errors.New("the header was written, but a dump that begins with it is degraded")

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
	given, err := a.openInput(ctx, source)
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

// lookAt analyzes a source as it is right now.
func lookAt(ctx context.Context, src hv.Source, o capture.LookOptions) (_ *capture.Analysis, err error) {
	mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	cpus, err := src.Registers(ctx)
	if err != nil {
		return nil, err
	}
	o.Published = hv.PublishedOf(src)
	return capture.Analyze(ctx, mem, mem.RAM(), cpus, o)
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
