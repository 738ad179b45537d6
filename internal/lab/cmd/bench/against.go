package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"snap/internal/lab"
)

// against holds this tree's snap against that of another revision: first whether the
// dumps of a suspended guest are the same bytes, then what each takes, in turns.
func (b *bench) against(ctx context.Context) (err error) {
	sides := []string{filepath.Join(b.dir, "before"), filepath.Join(b.dir, "now")}
	if err := buildBoth(ctx, b.settings.against, filepath.Join(b.dir, "tree"), sides); err != nil {
		return err
	}
	mib := b.sizes[0] << 10
	down, err := b.up(ctx, lab.Spec{MemoryMiB: mib, FillMiB: mib / 4 * 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	fmt.Printf("%s %s before, this tree now.\n\n", describeMachine(ctx), b.settings.against)
	if err := b.sameBytes(ctx, sides); err != nil {
		return err
	}
	kept := filepath.Join(b.dir, "kept")
	if _, _, err := child(ctx, sides[1], "dump", b.guest.Name, "-c", b.guest.URI, "-q", "--manifest=false", "-o", kept); err != nil {
		return err
	}
	domain, expanded := []string{b.guest.Name, "-c", b.guest.URI, "--json"}, filepath.Join(b.dir, "expanded")
	var contenders []contender
	for _, c := range []struct {
		name  string
		flags []string // of snap dump
		args  []string // or the whole command line
	}{
		{"pause, copy first, zstd", []string{"--mode", "pause"}, nil},
		{"pause, --spool off, zstd", []string{"--mode", "pause", "--spool", "off"}, nil},
		{"live, zstd", []string{"--mode", "live", "--max-changed", "100%"}, nil},
		{"pause, copy first, none", []string{"--mode", "pause", "--compress", "none"}, nil},
		{"check", nil, append([]string{"check"}, domain...)},
		{"verify", nil, []string{"verify", kept, "--json"}},
		{"expand", nil, []string{"expand", kept, "-o", expanded, "--force"}},
	} {
		if !strings.Contains(c.name, b.word) {
			continue
		}
		for _, side := range sides {
			contenders = append(contenders, contender{name: c.name + ", " + filepath.Base(side), run: func(ctx context.Context) (s sample, err error) {
				if c.flags != nil {
					s, _, err = b.dumpOnce(ctx, side, c.flags...)
				} else {
					s, _, err = child(ctx, side, c.args...)
				}
				return s, err
			}})
		}
	}
	rows, err := b.measure(ctx, contenders)
	if err != nil {
		return err
	}
	lines := [][]string{
		{"", "takes (s): before", "now", "ratio", "processor time: ratio", "largest in memory: ratio", "stands still (ms): before", "now"},
		{"---", "---:", "---:", "---:", "---:", "---:", "---:", "---:"},
	}
	for i := 0; i < len(rows); i += 2 {
		was, is := rows[i], rows[i+1]
		name, _ := strings.CutSuffix(was.Name, ", before")
		lines = append(lines, []string{
			name, number(was.median(took), 2), number(is.median(took), 2), number(ratio(is, was, took, took), 3),
			number(ratio(is, was, cpu, cpu), 3), number(ratio(is, was, rss, rss), 3),
			orDash(1000*was.median(still), 0), orDash(1000*is.median(still), 0),
		})
	}
	printTable(os.Stdout, lines)
	return nil
}

// buildBoth builds the snap of a revision, which is checked out to tree for that, and
// that of the working tree. The version is in the header's comment: it is the same in
// both.
func buildBoth(ctx context.Context, revision, tree string, sides []string) (err error) {
	run := func(dir, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, args[0], err, out)
		}
		return nil
	}
	if err := run(".", "git", "worktree", "add", "-q", "--detach", tree, revision); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run(".", "git", "worktree", "remove", "--force", tree)) }()
	for i, dir := range []string{tree, "."} {
		if err := run(dir, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=bench", "-o", sides[i], "./cmd/snap"); err != nil {
			return err
		}
	}
	return nil
}

// sameBytes has both dump the guest, suspended, and compares the files.
func (b *bench) sameBytes(ctx context.Context, sides []string) (err error) {
	if _, err := b.guest.Virsh(ctx, "suspend", b.guest.Name); err != nil {
		return err
	}
	defer func() {
		_, e := b.guest.Virsh(context.WithoutCancel(ctx), "resume", b.guest.Name)
		err = errors.Join(err, e)
	}()
	for _, format := range []string{"full", "bitmap"} {
		var files []string
		for _, side := range sides {
			file := side + ".dmp"
			_, _, err := child(ctx, side, "dump", b.guest.Name, "-c", b.guest.URI, "-q", "--format", format, "--compress", "none", "--manifest=false", "-o", file)
			if err != nil {
				return err
			}
			files = append(files, file)
		}
		if _, _, err := child(ctx, "cmp", files...); err != nil {
			return fmt.Errorf("the %s dumps differ: %w", format, err)
		}
		size, err := sizeOf(files[0])
		if err != nil {
			return err
		}
		fmt.Printf("The %s dump of the suspended guest is the same %d bytes by both.\n", format, size)
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	fmt.Println()
	return nil
}
