// Command bench measures what dumps take: by snap, by libvirt's own command, and by
// the physical limits of the same pages, in one run on the same lab guests. It writes
// a table and a plot, and says which goals were reached. See docs/benchmarks.
//
// Everything goes to files in memory (/dev/shm, or TMPDIR), so that no disk is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"snap/internal/ntlab/boot"
)

// settings are what the command line asks for.
type settings struct {
	program string // the snap binary
	rounds  int
	out     string // folder for table and plot
	sizes   []uint64
	mixes   []string
	levels  bool
	parts   []string
	newer   bool
	against string
	word    string
	holds   int
}

// mixes are what guests may be filled with, in parts.
var mixes = map[string]boot.Mix{
	"mixed":      {Zero: 1, Text: 1, Structures: 1, Random: 1},
	"zero":       {Zero: 22, Text: 1, Structures: 1},
	"text":       {Text: 1},
	"structures": {Structures: 1},
	"random":     {Random: 1},
}

// parts are what can be measured, in their order.
var parts = []string{"peers", "peek", "sparse", "calls"}

func main() {
	if len(os.Args) > 1 && os.Args[1] == limitCommand {
		exit(limit(os.Args[2:]))
	}
	var s settings
	var sizes, mixed, chosen string
	flag.StringVar(&s.program, "snap", "bin/snap", "the snap `binary`")
	flag.IntVar(&s.rounds, "rounds", 5, "how often each is measured")
	flag.StringVar(&s.out, "out", "docs/benchmarks", "`folder` for the table and the plot")
	flag.StringVar(&sizes, "sizes", "2", "guests of so many `GiB`, such as 2,4,8")
	flag.StringVar(&mixed, "mixes", "mixed,zero", "what they are filled with: mixed, zero (mostly), text, structures, random")
	flag.BoolVar(&s.levels, "levels", false, "snap by every level, too")
	flag.StringVar(&chosen, "parts", strings.Join(parts, ","), "what is measured")
	flag.BoolVar(&s.newer, "newer-qemu", false, "guests run under the QEMU of Debian's backports, and are dumped by snapshot as well")
	flag.StringVar(&s.against, "against", "", "hold this tree's snap against that of a git `revision`, and measure nothing else")
	flag.StringVar(&s.word, "word", "", "with -against: only what has the word in its name")
	flag.IntVar(&s.holds, "estimates", 0, "hold `N` estimates of pauses against the pauses, and measure nothing else")
	flag.Parse()
	s.mixes, s.parts = strings.Split(mixed, ","), strings.Split(chosen, ",")
	for _, text := range strings.Split(sizes, ",") {
		n, err := strconv.ParseUint(text, 10, 10)
		if err != nil || n == 0 {
			exit(fmt.Errorf("-sizes %s: want numbers of GiB, such as 2,4", sizes))
		}
		s.sizes = append(s.sizes, n)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	err := s.run(ctx)
	stop()
	exit(err)
}

// exit ends the program by what came of it.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run measures what is asked for.
func (s *settings) run(ctx context.Context) (err error) {
	if s.rounds < 1 {
		return errors.New("-rounds: want at least one")
	}
	temp := os.Getenv("TMPDIR")
	if temp == "" {
		temp = "/dev/shm"
	}
	dir, err := os.MkdirTemp(temp, "snap-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{settings: *s, dir: dir}
	switch {
	case s.against != "":
		return b.against(ctx)
	case s.holds > 0:
		return b.holdEstimates(ctx)
	}
	r := &report{Date: time.Now(), Machine: describeMachine(ctx), Load: loadNow(), Rounds: s.rounds}
	for _, part := range s.parts {
		var err error
		switch part {
		case "peers":
			err = b.peers(ctx, r)
		case "peek":
			err = b.peek(ctx, r)
		case "sparse":
			err = b.sparse(ctx, r)
		case "calls":
			err = b.calls(ctx, r)
		default:
			err = fmt.Errorf("-parts: there is no %q, only %s", part, strings.Join(parts, ", "))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // what was measured is worth being told all the same
			b.failed = append(b.failed, fmt.Errorf("%s: %w", part, err))
			r.Notes = append(r.Notes, fmt.Sprintf("Not all of %q was measured: %v.", part, err))
		}
	}
	return errors.Join(append(b.failed, r.write(s.out, os.Stdout))...)
}
