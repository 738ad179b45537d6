package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
	"snap/exclude"
	"snap/input"
	"snap/phys"
)

// lookFlags are the flags that decide what a dump holds.
type lookFlags struct {
	format       choice[capture.Format]
	exclude      []string
	noAdvertised bool
	require      bool
	maxExcluded  string
	allRAM       bool
	ctx          func() context.Context // of the command
}

func (f *lookFlags) addTo(cmd *cobra.Command) {
	f.ctx = cmd.Context
	fl := cmd.Flags()
	addChoice(cmd, &f.format, "format", capture.Formats(),
		"full: runs of pages (type 1); bitmap: any number of holes (type 5);\nauto: full while the runs fit its header")
	fl.StringArrayVar(&f.exclude, "exclude", nil,
		"leave out more: `RANGES` like pa:0x1000+16 or va:0xfffff80012340000+4 (in pages),\nor @file with one on each line; repeatable")
	fl.BoolVar(&f.noAdvertised, "no-advertised", false, "leave out nothing that the guest advertises; it is still listed")
	fl.BoolVar(&f.require, "require-exclusions", false,
		"no dump rather than one in which a page is, or may be, that anybody asked to leave\nout (exit code 21; else such a dump ends with 3)")
	fl.StringVar(&f.maxExcluded, "max-excluded", "50%", "fail if more than this would be left out: a size or a share of the guest's memory")
	fl.BoolVar(&f.allRAM, "all-ram", false,
		"put all of the guest's RAM into the dump, not only what Windows lists as its memory")
}

// rangesAdvice says how ranges to leave out are written.
const rangesAdvice = "write ranges like pa:0x1000+16 (guest-physical) or va:0xfffff80012340000+4 (virtual), counted in 4 KiB pages; @FILE reads a file of them"

// options checks the flags. Files of ranges are read until the command's context ends.
func (f *lookFlags) options() (capture.LookOptions, error) {
	limit, err := parseLimit(f.maxExcluded)
	if err != nil {
		return capture.LookOptions{}, err
	}
	requests, err := exclude.ParseRanges(f.exclude, func(name string) (io.ReadCloser, error) { return input.OpenText(f.ctx(), name) })
	if err != nil {
		advice := rangesAdvice
		if !errors.Is(err, exclude.ErrRange) {
			err, advice = fmt.Errorf("--exclude: %w", err), "give --exclude a file with a range like pa:0x1000+16 on each line"
		}
		return capture.LookOptions{}, &cmdError{err: &valueError{flag: "exclude", err: err}, code: exitUsage, next: advice}
	}
	if f.require && f.noAdvertised {
		return capture.LookOptions{}, usageError("--require-exclusions and --no-advertised exclude each other: what drivers ask to leave out can't be both required and kept")
	}
	return capture.LookOptions{
		Comment: comment(), Format: f.format.value, AllRAM: f.allRAM,
		Exclusion: capture.Exclusion{Requests: requests, NoAdvertised: f.noAdvertised, Limit: limit, Require: f.require},
	}, nil
}

// notForDumps fails if a flag is given that can change nothing of a dump that there
// is already.
func (f *lookFlags) notForDumps() error {
	given := ""
	switch {
	case len(f.exclude) > 0:
		given = "--exclude"
	case f.format.value != capture.FormatAuto:
		given = "--format"
	case f.allRAM:
		given = "--all-ram"
	case f.require:
		given = "--require-exclusions"
	case f.noAdvertised:
		given = "--no-advertised"
	default:
		return nil
	}
	return usageError("%s doesn't apply to an existing dump: its header and pages are kept", given)
}

// parseLimit reads 50% or 4GiB.
func parseLimit(s string) (capture.Limit, error) {
	wrong := wrongValue("max-excluded", s, "a size like 4GiB, or a share of the guest's memory like 50%")
	if share, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseUint(share, 10, 8)
		if err != nil || n == 0 || n > 100 {
			return capture.Limit{}, wrong
		}
		return capture.Limit{Percent: n}, nil
	}
	n, err := parseSize(s)
	if err != nil || n < phys.PageSize {
		return capture.Limit{}, wrong
	}
	return capture.Limit{Pages: n >> phys.PageShift}, nil
}
