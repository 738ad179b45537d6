// Command benchpause measures how long a lab guest stands still: for snap dump by
// pause and by snapshot, for the bare copy of the same pages, and for virsh dump
// --memory-only.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/libvirt"
	"snap/internal/lab"
	"snap/phys"
)

func main() {
	program := flag.String("snap", "bin/snap", "the snap `binary`")
	fill := flag.Uint64("fill", 2048, "`MiB` of memory that the guest fills")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	estimates := flag.Int("estimates", 0, "hold `N` estimates against pauses, and measure nothing else")
	newer := flag.Bool("newer-qemu", false, "take the QEMU of Debian's backports, and snapshots as well: the huge\npages of the guest's memory are gone then")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *fill, *rounds, *estimates, *newer); err != nil {
		fmt.Fprintln(os.Stderr, "benchpause:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, fill uint64, rounds, estimates int, newer bool) (err error) {
	release, err := lab.Userfaultfd(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	g, err := lab.Up(ctx, lab.Spec{Name: "benchpause", NewerQEMU: newer, MemoryMiB: fill + 256, CPUs: 2, FillMiB: fill, Seed: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	b := bench{g: g, program: program, snapshots: newer}
	if estimates > 0 {
		return b.holdEstimates(ctx, estimates)
	}
	var all [][]float64
	row := func(name, load string, v []float64) {
		fmt.Printf("| %s | %s | %.1f | %.1f | %.1f | %.0f | %.1f | %.1f | %.0f | %.0f |\n", name, load, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7])
	}
	fmt.Println("| round | load | bare copy | pause: estimate | pause | all | snapshot: QEMU's downtime | clock's longest stall | all | virsh dump |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for i := range rounds {
		v, load, err := b.round(ctx)
		if err != nil {
			return err
		}
		row(strconv.Itoa(i+1), load, v)
		all = append(all, v)
	}
	m := medians(all)
	row("median", "", m)
	fmt.Printf("\nMilliseconds. %d processors, %d pages. Of the medians: pause / bare copy = %.2f, pause / virsh dump = %.4f\n",
		runtime.NumCPU(), b.pages, m[2]/m[0], m[2]/m[7])
	return nil
}

// round measures everything once.
func (b *bench) round(ctx context.Context) (v []float64, load string, err error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, "", err
	}
	bare, err := b.bareCopy(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("bare copy: %w", err)
	}
	pause, err := b.snapDump(ctx, "pause")
	if err != nil {
		return nil, "", err
	}
	var snapshot summary
	if b.snapshots {
		if snapshot, err = b.snapDump(ctx, "snapshot"); err != nil {
			return nil, "", err
		}
	}
	core, err := b.virshDump(ctx)
	v = []float64{
		bare, pause.EstimateMS, pause.PauseMS, pause.DurationMS,
		snapshot.DowntimeMS, snapshot.StallMS, snapshot.DurationMS, core,
	}
	return v, string(text[:4]), err
}

// medians are those of the columns.
func medians(rows [][]float64) []float64 {
	var out []float64
	for c := range rows[0] {
		var column []float64
		for _, r := range rows {
			column = append(column, r[c])
		}
		slices.Sort(column)
		out = append(out, column[len(column)/2])
	}
	return out
}

type bench struct {
	g         *lab.Guest
	program   string
	snapshots bool
	pages     uint64 // populated
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// bareCopy copies the populated pages of the paused guest to memory that is
// there already, on all processors, and does nothing else.
func (b *bench) bareCopy(ctx context.Context) (took float64, err error) {
	conn, err := libvirt.Connect(ctx, b.g.URI)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	vm, err := conn.LookupDomain(ctx, b.g.Name)
	if err != nil {
		return 0, err
	}
	defer vm.Close()
	mem, err := vm.OpenMemory(ctx, hv.MechanismDirect)
	if err != nil {
		return 0, err
	}
	defer mem.Close()
	if _, err := b.g.Virsh(ctx, "suspend", b.g.Name); err != nil {
		return 0, err
	}
	defer func() {
		if _, e := b.g.Virsh(context.WithoutCancel(ctx), "resume", b.g.Name); err == nil {
			err = e
		}
	}()
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return 0, err
	}
	to, err := unix.Mmap(-1, 0, int(set.Pages()*phys.PageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Munmap(to) }()
	_ = unix.Madvise(to, unix.MADV_HUGEPAGE)
	for i := 0; i < len(to); i += phys.PageSize {
		to[i] = 0
	}
	took, err = copyAll(ctx, mem, set, to)
	b.pages = set.Pages()
	return took, err
}

func copyAll(ctx context.Context, mem phys.Reader, set phys.Runs, to []byte) (float64, error) {
	type part struct {
		at phys.Addr
		to []byte
	}
	const most = 4 << 20
	var parts []part
	for _, r := range set {
		for at := r.Base.Addr(); at < r.End().Addr(); at += most {
			n := min(most, uint64(r.End().Addr()-at))
			parts = append(parts, part{at, to[:n]})
			to = to[n:]
		}
	}
	var next atomic.Int64
	start := time.Now()
	var group errgroup.Group
	for range runtime.NumCPU() {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(parts)); i = next.Add(1) - 1 {
				if err := mem.ReadPhys(ctx, parts[i].to, parts[i].at); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return ms(time.Since(start)), err
}

// summary is what a dump says of how the guest stood still, in milliseconds.
type summary struct {
	Spooled    bool
	PauseMS    float64 `json:"pause_ms"`
	EstimateMS float64 `json:"pause_estimate_ms"`
	MostMS     float64 `json:"pause_estimate_max_ms"`
	Confidence string  `json:"pause_estimate_confidence"`
	DowntimeMS float64 `json:"downtime_ms"`
	StallMS    float64 `json:"stall_ms"`
	DurationMS float64 `json:"duration_ms"`
}

// snapDump takes a dump.
func (b *bench) snapDump(ctx context.Context, mode string) (sum summary, err error) {
	cmd := exec.CommandContext(ctx, b.program, "dump", b.g.Name, "-c", b.g.URI, "--mode", mode, "--max-pause", "60s", "--json", "-o", filepath.Join(b.g.Dir(), "bench.dmp.zst"), "--force")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it resumes the guest
	out, err := cmd.Output()
	if err != nil {
		return sum, fmt.Errorf("snap dump: %w", err)
	}
	if err := json.Unmarshal(out, &sum); err != nil {
		return sum, err
	}
	if mode == "pause" && !sum.Spooled {
		return sum, errors.New("snap dump: the guest's pages don't fit the spool on this host")
	}
	return sum, nil
}

// virshDump has libvirt dump the guest, which stands still all the while but for
// the start of virsh.
func (b *bench) virshDump(ctx context.Context) (float64, error) {
	path := filepath.Join(b.g.Dir(), "bench.elf")
	defer os.Remove(path)
	start := time.Now()
	_, err := b.g.Virsh(ctx, "dump", "--memory-only", b.g.Name, path)
	return ms(time.Since(start)), err
}
