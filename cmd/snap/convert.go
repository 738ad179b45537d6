package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
	"snap/dump"
	"snap/hv"
	"snap/hv/file"
	"snap/input"
	"snap/phys"
	"snap/store"
)

// inputFlags say how to read an input file.
type inputFlags struct {
	raw bool
	ram []string
}

func (o *inputFlags) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.raw, "raw", false, "the file is a raw image of guest memory")
	f.StringArrayVar(&o.ram, "ram", nil,
		"where a raw image's memory belongs: `GPA+SIZE[@FILEOFFSET]`; repeatable\n(default: that of the usual maps which fits the guest best)")
}

func newConvertCommand(a *app) *cobra.Command {
	var o fileFlags
	var in inputFlags
	var look lookFlags
	cmd := &cobra.Command{
		Use:   "convert [flags] INPUT",
		Short: "Make a dump from a file: a core, a memory image, an existing dump",
		Long: `Make a full crash dump from a file that holds a guest's memory:

  an ELF core        from virsh dump --memory-only, or VirtualBox
  a kdump core       from virsh dump --memory-only --format kdump-zlib, -lzo or
                     -snappy, or makedumpfile; flattened or not
  a LiME image       or one that AVML wrote, compressed or not
  a raw image        with --raw; without --ram the usual maps are tried: from
                     guest-physical 0 on, and with the holes below 4 GiB that
                     QEMU, VMware, VirtualBox and Hyper-V have
  an existing dump   full or with a bitmap, of Windows on x86 or x86-64: its header
                     and pages are kept, the container changes

Each of them may be compressed as a whole with gzip, zstd or xz, or be the only file
in a zip archive: it is expanded first, into a file without a name beside the output (in memory, if that goes to
standard output), which is gone when snap ends.

A file of memory doesn't say whether the guest stood still while it was made: the
dump's pages are then of a time that is not known. A dump that snap made has its
account inside, or beside it if the hash is the file's: that is kept as
converted_from in the new one, and what it says of the moment, of pages left out
and of pages that could not be read holds for the new dump, exit code 3 included.`,
		Args:        oneArg("INPUT"),
		Annotations: exitCodes(exitDegraded, exitDenied, exitNotWindows, exitNoSpace, exitUpload, exitUnmet),
		Example: "  virsh dump --memory-only web01 web01.elf\n  snap convert web01.elf -o web01.dmp.zst\n" +
			"  snap convert --raw --ram 0+2GiB --ram 4GiB+2GiB@2GiB mem.raw -o mem.dmp.zst",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.traced(cmd.Context(), &o, "convert", func(ctx context.Context) error {
				if err := a.convert(ctx, args[0], &in, &look, &o); err != nil {
					return interrupted(fmt.Errorf("convert %s: %w", args[0], err), "convert "+args[0], "", outputFlag(cmd))
				}
				return nil
			})
		},
	}
	o.addTo(cmd, a, "./{input}-{time}.dmp.zst")
	look.addTo(cmd)
	in.addTo(cmd)
	addIdentityFlag(cmd, a)
	return cmd
}

func (a *app) convert(ctx context.Context, path string, in *inputFlags, l *lookFlags, f *fileFlags) error {
	o, err := f.options(ctx, a)
	if err != nil {
		return err
	}
	if o.Look, err = l.options(); err != nil {
		return err
	}
	if _, err := in.segments(); err != nil {
		return err // before a file is asked for that may not be there
	}
	to, err := f.target(a, ofFile(path), o)
	if err != nil {
		return err
	}
	if err := f.account.check(ctx); err != nil {
		return err
	}
	given, err := a.openInput(ctx, path)
	if err != nil {
		return err
	}
	place, file, err := to.open(a, store.Options{Force: f.force})
	if err != nil {
		return errors.Join(err, given.Close())
	}
	src, old, err := a.openGuest(ctx, given, in, scratchBeside(place.Path(file)))
	if err != nil {
		return err
	}
	if old != nil {
		defer old.Close()
		if err := convertible(old, given.Name()); err != nil {
			return err
		}
		if err := l.notForDumps(); err != nil {
			return err
		}
	} else {
		defer src.Close()
	}
	name := inputName(path)
	show := a.newDisplay(name, "converting", nil)
	defer show.end()
	o.Observer = show
	id := hv.Identity{Name: name}
	var res *capture.Result
	if old != nil {
		res, err = a.repack(ctx, old, path, id, place, file, o)
	} else {
		res, err = capture.Convert(ctx, src, id, place, file, *o)
	}
	show.end()
	if err != nil {
		return takeAdvice(err)
	}
	return a.report(ctx, f, res)
}

// repack is snap convert of an existing dump.
func (a *app) repack(ctx context.Context, old *dump.File, path string, id hv.Identity, place store.Place, file string, o *capture.Options) (*capture.Result, error) {
	account, err := a.readAccount(ctx, old, path)
	if err != nil {
		return nil, err
	}
	return capture.Repack(ctx, old, account, id, place, file, *o)
}

// readAccount returns what a dump says of itself. It shows how far it is where all
// of the file must be read for that.
func (a *app) readAccount(ctx context.Context, f *dump.File, path string) (*capture.SourceAccount, error) {
	if account := capture.Inside(f); account.Where != "" || path == input.Stdin {
		return account, nil
	}
	open := a.opener(ctx)
	beside, err := open(capture.ManifestOf(path))
	if errors.Is(err, fs.ErrNotExist) {
		return new(capture.SourceAccount), nil
	}
	if err == nil {
		_ = beside.Close() // it was only looked for
	}
	var p dump.Progress
	stop := a.showProgress("hashing", "hashing "+filepath.Base(path), &p)
	defer stop()
	return capture.ReadAccount(ctx, f, path, open, &p)
}

// segments parses --ram; without it there are none.
func (in *inputFlags) segments() ([]file.Segment, error) {
	if len(in.ram) > 0 && !in.raw {
		return nil, usageError("--ram describes a raw image: add --raw")
	}
	var out []file.Segment
	var offset uint64 // ranges follow each other in the file unless they say otherwise
	for _, spec := range in.ram {
		s, ok := parseSegment(spec, offset)
		if !ok {
			return nil, wrongValue("ram", spec, "GPA+SIZE[@FILEOFFSET] in whole pages of 4 KiB, such as 4GiB+2GiB@0x80000000")
		}
		offset = uint64(s.FileOffset) + s.Size
		out = append(out, s)
	}
	return out, nil
}

func parseSegment(spec string, offset uint64) (file.Segment, bool) {
	place, at, hasAt := strings.Cut(spec, "@")
	gpa, size, ok := strings.Cut(place, "+")
	if !ok {
		return file.Segment{}, false
	}
	g, err1 := parseSize(gpa)
	n, err2 := parseSize(size)
	var err3 error
	if hasAt {
		offset, err3 = parseSize(at)
	}
	if err1 != nil || err2 != nil || err3 != nil || n == 0 || offset > maxSize || (g|n)%phys.PageSize != 0 {
		return file.Segment{}, false
	}
	return file.Segment{GPA: phys.Addr(g), Size: n, FileOffset: int64(offset)}, true
}
