package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"snap/internal/lab"
	"snap/internal/ntlab/boot"
)

// bench measures guests one after the other.
type bench struct {
	settings

	dir    string // for files in memory
	guest  *lab.Guest
	failed []error // what should have been measured and wasn't
}

// contender is something that is measured.
type contender struct {
	name  string
	limit bool // see row
	// run does it once.
	run func(ctx context.Context) (sample, error)
	// check judges the file of a run, nil where there is none. It may fail.
	check func(ctx context.Context) error
	// may says that it may fail here. What fails is left out, with the reason.
	may bool
}

// up runs a guest until the result is called.
func (b *bench) up(ctx context.Context, spec lab.Spec) (down func() error, err error) {
	if spec.Name == "" {
		spec.Name = "bench"
	}
	spec.Seed, spec.NewerQEMU = 1, b.newer
	if spec.CPUs == 0 {
		spec.CPUs = 2
	}
	spec.Mode = boot.Idle // or its processors would compete for the host's
	b.say("%d MiB of guest, %d of it filled", spec.MemoryMiB, spec.FillMiB)
	g, err := lab.Up(ctx, spec)
	if err != nil {
		return nil, err
	}
	b.guest = g
	return g.Close, nil
}

// say tells who waits what is done.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// measure runs all contenders in turns, every other round the other way round, and
// checks what they write in the first. One that fails is left out from then on.
func (b *bench) measure(ctx context.Context, contenders []contender) ([]*row, error) {
	var rows []*row
	for _, c := range contenders {
		rows = append(rows, &row{Name: c.name, Limit: c.limit})
	}
	for round := range b.rounds {
		for i := range contenders {
			if round%2 == 1 {
				i = len(contenders) - 1 - i
			}
			if err := b.once(ctx, &contenders[i], rows[i], round == 0); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

// once runs a contender once. The error is that there is no going on.
func (b *bench) once(ctx context.Context, c *contender, r *row, check bool) error {
	if r.Why != "" {
		return nil
	}
	s, err := c.run(ctx)
	if err == nil && check && c.check != nil {
		err = c.check(ctx)
	}
	for _, path := range []string{b.output(), b.output() + ".zst"} {
		if e := os.Remove(path); e != nil && !errors.Is(e, os.ErrNotExist) {
			return errors.Join(err, e)
		}
	}
	if err == nil {
		b.say("  %-40s %7.2f s", c.name, s.Took.Seconds())
		r.Samples = append(r.Samples, s)
		return nil
	}
	if !c.may {
		b.failed = append(b.failed, fmt.Errorf("%s: %w", c.name, err))
	}
	b.say("  %-40s left out: %v", c.name, err)
	r.Samples, r.Why = nil, strings.TrimSpace(strings.ReplaceAll(err.Error(), "\n", " "))
	return context.Cause(ctx)
}

// output is the file that contenders write.
func (b *bench) output() string { return filepath.Join(b.dir, "out") }

// peers measures dumps of guests of each size and mix beside libvirt's and the limits.
func (b *bench) peers(ctx context.Context, r *report) error {
	for _, gib := range b.sizes {
		for _, mix := range b.mixes {
			if err := b.peersOf(ctx, r, gib, mix); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) peersOf(ctx context.Context, r *report, gib uint64, mix string) (err error) {
	of, ok := mixes[mix]
	if !ok {
		return fmt.Errorf("-mixes: there is no %q", mix)
	}
	title := fmt.Sprintf("%d GiB, %s", gib, mix)
	release := func() error { return nil }
	if b.newer { // whose snapshots need it
		release, err = lab.Userfaultfd(true)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	down, err := b.up(ctx, lab.Spec{MemoryMiB: gib << 10, FillMiB: gib << 10 / 4 * 3, Mix: of, PublishHeader: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	contenders := []contender{
		b.limitOf(rowCopy, "read", ""), b.limitOf(rowCompress, "compress", b.levelNames()[0]),
		b.virsh(rowELF, "", "\x7fELF", false), b.virsh(rowELFZstd, "", "\x7fELF", true),
		b.virsh(rowKdump, "kdump-zlib", "makedumpfile", false),
		b.virsh(rowWinDmp, "win-dmp", "PAGEDU64", false), b.virsh(rowWinZstd, "win-dmp", "PAGEDU64", true),
		b.snap(rowDecoded, "--mode", "pause"), b.snap(rowNone, "--mode", "pause", "--compress", "none"),
	}
	if b.hasFlag("--verify") {
		contenders = append(contenders, b.snap(rowStored, "--mode", "pause", "--verify", "stored"))
	}
	if b.newer {
		contenders = append(contenders, b.snap(rowSnapshot, "--mode", "snapshot"))
	}
	const turbo = "turbo" // for when the disk is faster than the processors, as it is here
	if slices.Contains(b.levelNames(), turbo) {
		contenders = append(contenders, b.snap("snap dump --level "+turbo, "--mode", "pause", "--level", turbo))
	}
	if b.levels {
		for _, level := range b.levelNames()[1:] {
			if level == turbo {
				continue
			}
			contenders = append(contenders, b.limitOf(rowCompress+", "+level, "compress", level), b.snap("snap dump --level "+level, "--mode", "pause", "--level", level))
		}
	}
	rows, err := b.measure(ctx, contenders)
	if err != nil {
		return err
	}
	populated := uint64(0)
	if c := find(rows, rowCopy); c != nil {
		populated = uint64(c.median(stored))
	}
	r.Goals = append(r.Goals, goalsOf(title, rows, mix == "zero")...)
	r.Sections = append(r.Sections, section{
		group: group{title, rows},
		About: fmt.Sprintf("A guest of %d GiB, %d MiB of it populated, %s.", gib, populated>>20, describeMix(mix)),
	})
	return nil
}

// describeMix says what a mix is.
func describeMix(mix string) string {
	m := mixes[mix]
	return fmt.Sprintf("filled with pages of zeros, text, structures and random bytes as %d : %d : %d : %d", m.Zero, m.Text, m.Structures, m.Random)
}
