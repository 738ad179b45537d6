package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/mount"
	"snap/dump"
)

func newMountCommand(a *app) *cobra.Command {
	var others bool
	cmd := &cobra.Command{
		Use:   "mount [flags] SOURCE DIR",
		Short: "Show a compressed dump as the plain .dmp, without expanding it",
		Long: `Show the plain dump that is in SOURCE as a file in DIR, which must be an empty
folder: NAME.dmp, read-only. Nothing is expanded first and nothing is written; what
is read is decoded then, by frames of 1 MiB, whose checksums are verified. Debuggers
and other tools read it as any file. SOURCE must be a dump that can be read at any
offset, which those of snap are; others are expanded with snap expand.

snap stays in the foreground until the file is unmounted, with umount DIR (or
fusermount3 -u DIR), by Ctrl-C or by SIGTERM: all of these end with exit code 0. Only
who mounted it can read it, unless --allow-other.

What can't be read, or is damaged, gives an input/output error to who reads it, and
a line here. It isn't kept: the next read tries again.

If snap is killed, reads of the file fail until umount DIR.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError("%s takes one SOURCE and one DIR, not %d arguments", cmd.CommandPath(), len(args))
			}
			return nil
		},
		Annotations: exitCodes(exitDenied, exitUnsupported),
		Example:     "  mkdir /tmp/web01 && snap mount web01-20261122T010000Z.dmp.zst /tmp/web01",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.mount(cmd.Context(), args[0], args[1], others); err != nil {
				return fmt.Errorf("mount %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&others, "allow-other", false, "let all users of this host read the file")
	addIdentityFlag(cmd, a)
	cmd.Annotations[firstIsInput] = "yes"
	return cmd
}

func (a *app) mount(ctx context.Context, path, dir string, others bool) (err error) {
	d, err := a.openDump(ctx, path, noScratch, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if !d.Container().RandomAccess {
		return dump.ErrSequential
	}
	file := mount.File{
		Name: fileName(inputName(path)) + dumpEnding, Size: d.Size(), Modified: modifiedAt(path),
		Content: d, Read: (&readLog{log: a.log}).read,
	}
	m, err := mount.New(dir, file, mount.Options{AllowOther: others, Log: log.New(debugLines{a.log}, "", 0)})
	if err != nil {
		return err
	}
	a.log.Info().Str("file", filepath.Join(dir, file.Name)).Int64("bytes", file.Size).
		Msgf("mounted: %s, %s; unmount it with umount %s, or Ctrl-C", printable(filepath.Join(dir, file.Name)), humanize.IBytes(uint64(file.Size)), shellPath(dir))
	select {
	case <-m.Ended():
	case <-ctx.Done():
		if err := m.Close(); err != nil {
			return err
		}
	}
	a.log.Info().Msg("unmounted")
	return nil
}

// modifiedAt is when the file at path was written, as far as that is known.
func modifiedAt(path string) time.Time {
	if info, err := os.Stat(path); err == nil {
		return info.ModTime()
	}
	return time.Now()
}

// readLog tells of reads that fail, and of the first one after them that doesn't: of
// the same failure no more often than every so often.
type readLog struct {
	log zerolog.Logger

	mu    sync.Mutex
	last  string // failure, "" if the last read was none
	since time.Time
}

const sameFailure = 10 * time.Second

// read is told of each read.
func (l *readLog) read(off int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && l.last == "":
	case err == nil:
		l.last = ""
		l.log.Info().Msg("reading works again")
	case err.Error() != l.last || time.Since(l.since) >= sameFailure:
		l.last, l.since = err.Error(), time.Now()
		l.log.Warn().Int64("offset", off).Msgf("a read at offset %#x failed: %s", off, printable(err.Error()))
	}
}

// debugLines is a writer of lines to the debug log.
type debugLines struct{ log zerolog.Logger }

var _ io.Writer = debugLines{}

// Write implements io.Writer.
func (d debugLines) Write(p []byte) (int, error) {
	d.log.Debug().Str("from", "fuse").Msg(printable(string(p)))
	return len(p), nil
}
