package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/dump"
	"snap/manifest"
	"snap/store"
)

func newExpandCommand(a *app) *cobra.Command {
	var to outputFlags
	var account string
	cmd := &cobra.Command{
		Use:   "expand FILE -o OUT.dmp",
		Short: "Make the plain .dmp that debuggers open from a compressed one",
		Long: `Expand a compressed dump to the plain .dmp that WinDbg, Volatility and others
open. Every checksum is verified on the way, and stretches of zeros become
holes, so that the file takes no more room than it must. With --manifest what comes of
it is held against the SHA-256 of the plain dump that snap dump --plain-sum noted in the
account, before it gets its name.`,
		Args:        oneArg("FILE"),
		Annotations: exitCodes(exitDenied, exitNoSpace, exitUpload),
		Example:     "  snap expand web01-20261122T010000Z.dmp.zst -o web01.dmp",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !to.given.Changed {
				return usageError("snap expand needs -o: the plain dump to write")
			}
			if err := a.expand(cmd.Context(), args[0], account, &to); err != nil {
				return interrupted(fmt.Errorf("expand %s: %w", args[0], err), "expand "+args[0], "", outputFlag(cmd))
			}
			return nil
		},
	}
	to.addTo(cmd, "", "; the plain dump, which ends in .dmp")
	addIdentityFlag(cmd, a)
	addRequireFlag(cmd, a, "refuse, as what is expanded is in clear")
	cmd.Flags().StringVar(&account, "manifest", "", "hold the plain dump against the account of the dump, a `file`")
	return cmd
}

func (a *app) expand(ctx context.Context, path, account string, o *outputFlags) (err error) {
	if err := a.mayWriteClear(); err != nil {
		return err
	}
	man, err := a.plainAccount(ctx, account)
	if err != nil {
		return err
	}
	s := ofFile(path)
	s.made = "{input}" // as what it is of
	place, name, err := o.placeFor(ctx, a, s, []fileKind{dumpFile(dump.CompressionNone)})
	if err != nil {
		return err
	}
	f, err := a.openDump(ctx, path, scratchBeside(place.Path(name)), false)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := a.fits(ctx, place, name, f); err != nil {
		return err
	}
	out, err := place.Create(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Abort()) }()
	if s, ok := out.(store.Sized); ok {
		s.Expect(f.Size())
	}
	var p dump.Progress
	stop := a.showProgress("expanding", "expanding "+filepath.Base(path), &p)
	st, err := expandAs(ctx, f, out, man, &p)
	stop()
	if err != nil {
		return err
	}
	if err := out.Commit(ctx); err != nil {
		return err
	}
	if a.logFormat == logJSON {
		a.log.Info().Str("output", place.Path(name)).Uint64("bytes", st.Bytes).Uint64("hole_bytes", st.Holes).Msg("expanded")
		return nil
	}
	a.log.Info().Msgf("expanded: %s, %s of it holes", humanize.IBytes(st.Bytes), humanize.IBytes(st.Holes))
	a.log.Info().Msg(printable(place.Path(name)))
	return nil
}

// plainAccount reads the account that a plain dump is to be of; nil if none is named.
func (a *app) plainAccount(ctx context.Context, path string) (*manifest.Manifest, error) {
	if path == "" {
		return nil, nil
	}
	doc, err := capture.ReadManifest(a.opener(ctx), path)
	if err != nil {
		return nil, err
	}
	man, err := manifest.Decode(doc)
	if err == nil && man.PlainSHA256 == "" {
		err = next(usageError("%s has no SHA-256 of the plain dump, which snap dump --plain-sum notes", path), "leave out --manifest here; snap verify --manifest holds the dump against the rest of it")
	}
	return man, err
}

// expandAs is dump.Expand of the very dump that man, unless it is nil, is the account of.
func expandAs(ctx context.Context, f *dump.File, out io.Writer, man *manifest.Manifest, p *dump.Progress) (*dump.ExpandStats, error) {
	if man == nil {
		return dump.Expand(ctx, f, out, p)
	}
	w, sum := dump.Summed(out)
	st, err := dump.Expand(ctx, f, w, p)
	if err == nil {
		err = man.SamePlain(sum())
	}
	return st, err
}

// fits fails if the plain dump of f can't fit the place, and warns where it may not.
// What can't be found out is found out by writing.
func (a *app) fits(ctx context.Context, place store.Place, name string, f *dump.File) error {
	size, err := capture.ExpandedSize(ctx, f)
	if err != nil {
		return ctx.Err()
	}
	warning, err := store.Fit(ctx, place, name, size)
	if warning != "" {
		a.log.Warn().Msg(warning)
	}
	return err
}
