package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/dump"
	"snap/store"
)

func newExpandCommand(a *app) *cobra.Command {
	var output string
	var force bool
	cmd := &cobra.Command{
		Use:   "expand FILE -o OUT.dmp",
		Short: "Make the plain .dmp that debuggers open from a compressed one",
		Long: `Expand a compressed dump to the plain .dmp that WinDbg, Volatility and others
open. Every checksum is verified on the way, and stretches of zeros become
holes, so that the file takes no more room than it must.`,
		Args:        oneArg("FILE"),
		Annotations: exitCodes(exitDenied, exitNoSpace),
		Example:     "  snap expand web01-20261122T010000Z.dmp.zst -o web01.dmp",
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" {
				return usageError("snap expand needs -o: the plain dump to write")
			}
			if err := a.expand(cmd.Context(), args[0], output, force); err != nil {
				return fmt.Errorf("expand %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the plain dump to write (`file`)")
	cmd.Flags().BoolVar(&force, "force", false, "replace an existing output file")
	return cmd
}

func (a *app) expand(ctx context.Context, path, output string, force bool) (err error) {
	f, err := dump.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if same, err := sameFile(path, output); err != nil {
		return err
	} else if same {
		return usageError("%s is also the output", path)
	}
	place, name, err := a.place(output, store.Options{Force: force, NoSum: true})
	if err != nil {
		return err
	}
	if name == "" {
		name = expandedName(path)
	}
	out, err := place.Create(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Abort()) }()
	var p dump.Progress
	stop := a.showProgress("expanding", &p)
	st, err := dump.Expand(ctx, f, out, &p)
	stop()
	if err != nil {
		return err
	}
	if err := out.Commit(ctx); err != nil {
		return err
	}
	a.log.Info().Str("output", place.Path(name)).Str("size", humanize.IBytes(st.Bytes)).Str("holes", humanize.IBytes(st.Holes)).
		Msg("expanded")
	return nil
}

// expandedName is what the plain dump of a file is called in a folder.
func expandedName(path string) string {
	return strings.TrimSuffix(withoutSuffix(filepath.Base(path)), ".dmp") + ".dmp"
}

// withoutSuffix is path without what tells that the file is compressed.
func withoutSuffix(path string) string {
	for _, c := range dump.Compressions() {
		path = strings.TrimSuffix(path, c.Suffix())
	}
	return path
}

// sameFile reports whether both paths name one existing file.
func sameFile(a, b string) (bool, error) {
	ia, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib), nil
}
