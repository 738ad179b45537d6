package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"snap/internal/lab"
)

// peek measures a dump through libvirt beside reading the memory through it once.
func (b *bench) peek(ctx context.Context, r *report) (err error) {
	down, err := b.up(ctx, lab.Spec{MemoryMiB: 1024, FillMiB: 768})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	rows, err := b.measure(ctx, []contender{b.limitOf(rowPeekRead, "peek", ""), b.snap(rowPeek, "--mode", "pause", "--source", "peek")})
	if err != nil {
		return err
	}
	const title = "1 GiB, through libvirt"
	r.Goals = append(r.Goals, goal{title + ": " + rowPeek + " / " + rowPeekRead, 1.3, ratio(find(rows, rowPeek), find(rows, rowPeekRead), took, took)})
	r.Sections = append(r.Sections, section{
		group: group{title, rows},
		About: "A guest of 1 GiB, 768 MiB of it filled, whose memory is read by libvirt's calls alone, as that of a guest on another host.",
	})
	return nil
}

// sparse measures a large guest that has used little of its memory beside a small one
// with as much in it.
func (b *bench) sparse(ctx context.Context, r *report) (err error) {
	const title = "16 GiB of which 1 GiB is touched"
	const small, large = "snap dump, of 2 GiB", "snap dump, of 16 GiB"
	var contenders []contender
	var before, after map[string]uint64
	var guest *lab.Guest
	for _, g := range []struct {
		row string
		mib uint64
	}{{small, 2 << 10}, {large, 16 << 10}} {
		one := *b
		down, err := one.up(ctx, lab.Spec{Name: fmt.Sprintf("bench-%d", g.mib>>10), MemoryMiB: g.mib, FillMiB: 1024})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, down()) }()
		contenders = append(contenders, one.snap(g.row, "--mode", "pause"))
		guest = one.guest
	}
	if before, err = memoryOf(guest); err != nil {
		return err
	}
	rows, err := b.measure(ctx, contenders)
	if err != nil {
		return err
	}
	if after, err = memoryOf(guest); err != nil {
		return err
	}
	r.Goals = append(r.Goals, goal{title + ": " + large + " / " + small, 1.3, ratio(find(rows, large), find(rows, small), took, took)})
	for _, k := range []struct{ key, what string }{{"VmRSS", "resident memory"}, {"VmPTE", "page tables"}} {
		grown := float64(after[k.key])/float64(before[k.key]) - 1
		r.Goals = append(r.Goals, goal{fmt.Sprintf("%s: growth of QEMU's %s by %d dumps, in percent", title, k.what, b.rounds), 1, 100 * grown})
	}
	r.Sections = append(r.Sections, section{
		group: group{title, rows},
		About: "Two guests with the same 1 GiB filled, which is half of the one's memory and a sixteenth of the other's.",
	})
	return nil
}

// memoryOf returns what the kernel says of the memory of a guest's QEMU, in KiB
// (proc(5), status).
func memoryOf(g *lab.Guest) (map[string]uint64, error) {
	pid, err := g.PID()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	of := map[string]uint64{}
	in := bufio.NewScanner(f)
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), ":")
		if text, ok := strings.CutSuffix(strings.TrimSpace(value), " kB"); ok {
			if of[key], err = strconv.ParseUint(text, 10, 64); err != nil {
				return nil, err
			}
		}
	}
	return of, in.Err()
}

// calls counts the system calls of a dump: none is made for a single page.
func (b *bench) calls(ctx context.Context, r *report) (err error) {
	const fill, perPage = 1024, 1.0 / 32
	g := goal{"system calls of a dump, but those that wait, for each page of 4 KiB", perPage, math.NaN()}
	if _, err := exec.LookPath("strace"); err != nil {
		r.Notes = append(r.Notes, "System calls were not counted: there is no strace.")
		r.Goals = append(r.Goals, g)
		return nil
	}
	down, err := b.up(ctx, lab.Spec{MemoryMiB: fill + 256, FillMiB: fill})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	counts := filepath.Join(b.dir, "calls")
	_, _, err = child(ctx, "strace", "-f", "-c", "-o", counts, b.program, "dump", b.guest.Name, "-c", b.guest.URI, "-q",
		"-o", b.output(), "--force", "--manifest=false", "--mode", "pause", "--max-pause", "24h", "--spool", "2GiB")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(counts)
	if err != nil {
		return err
	}
	all, waits, most, err := parseCalls(string(text))
	if err != nil {
		return err
	}
	g.Ratio = float64(all-waits) / (fill << 20 >> 12)
	r.Goals = append(r.Goals, g)
	r.Notes = append(r.Notes, fmt.Sprintf("By strace, which slows a dump down, snap and what it starts make %d system calls for each GiB of populated memory, which is %d pages; %d of them only wait. The most are %s.",
		all*1024/fill, 1<<30>>12, waits*1024/fill, strings.Join(most, ", ")))
	return os.Remove(b.output())
}

// waiting are system calls that only wait: they are the more the longer a dump takes.
var waiting = []string{"nanosleep", "clock_nanosleep", "futex", "epoll_pwait", "poll", "ppoll", "sched_yield"}

// parseCalls reads the table of strace -c: the number of calls, how many of them only
// wait, and which are most.
func parseCalls(text string) (all, waits uint64, most []string, err error) {
	type call struct {
		name string
		n    uint64
	}
	var found []call
	for _, line := range strings.Split(text, "\n") {
		words := strings.Fields(line) // % time, seconds, usecs/call, calls, errors or nothing, name
		if len(words) < 5 || words[len(words)-1] == "total" {
			continue
		}
		n, err := strconv.ParseUint(words[3], 10, 64)
		if err != nil {
			continue // a heading or a rule
		}
		found = append(found, call{words[len(words)-1], n})
		all += n
		if slices.Contains(waiting, words[len(words)-1]) {
			waits += n
		}
	}
	if all == 0 {
		return 0, 0, nil, errors.New("strace counted nothing")
	}
	slices.SortStableFunc(found, func(a, b call) int { return int(b.n) - int(a.n) })
	for _, c := range found[:min(5, len(found))] {
		most = append(most, fmt.Sprintf("%s (%d)", c.name, c.n))
	}
	return all, waits, most, nil
}
