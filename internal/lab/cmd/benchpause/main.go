// Command benchpause measures how long a lab guest stands still: for snap dump,
// for the bare copy of the same pages, and for virsh dump --memory-only.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"snap/guest/phys"
	"snap/hv"
	"snap/hv/libvirt"
	"snap/internal/lab"
)

func main() {
	program := flag.String("snap", "bin/snap", "the snap `binary`")
	fill := flag.Uint64("fill", 2048, "`MiB` of memory that the guest fills")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *fill, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "benchpause:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, fill uint64, rounds int) (err error) {
	g, err := lab.Up(ctx, lab.Spec{Name: "benchpause", MemoryMiB: fill + 256, CPUs: 2, FillMiB: fill, Seed: 1})
	if err != nil {
		return err
	}
	defer func() {
		if e := g.Close(); err == nil {
			err = e
		}
	}()
	b := bench{g: g, program: program}
	fmt.Println("| round | load | pages | bare copy ms | snap estimate ms | snap pause ms | virsh dump ms |")
	fmt.Println("|---|---|---|---|---|---|---|")
	var copies, pauses, dumps []float64
	for i := range rounds {
		load, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			return err
		}
		pages, bare, err := b.bareCopy(ctx)
		if err != nil {
			return fmt.Errorf("bare copy: %w", err)
		}
		estimate, pause, err := b.snapDump(ctx)
		if err != nil {
			return err
		}
		core, err := b.virshDump(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("| %d | %.4s | %d | %.1f | %.1f | %.1f | %.0f |\n", i+1, load, pages, bare, estimate, pause, core)
		copies, pauses, dumps = append(copies, bare), append(pauses, pause), append(dumps, core)
	}
	c, p, d := median(copies), median(pauses), median(dumps)
	fmt.Printf("| median | | | %.1f | | %.1f | %.0f |\n\n", c, p, d)
	fmt.Printf("pause / bare copy = %.2f, pause / virsh dump = %.4f (of the medians; %d processors)\n", p/c, p/d, runtime.NumCPU())
	return nil
}

type bench struct {
	g       *lab.Guest
	program string
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// bareCopy copies the populated pages of the paused guest to memory that is
// there already, on all processors, and does nothing else.
func (b *bench) bareCopy(ctx context.Context) (pages uint64, took float64, err error) {
	conn, err := libvirt.Connect(ctx, b.g.URI)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	vm, err := conn.Lookup(ctx, b.g.Name)
	if err != nil {
		return 0, 0, err
	}
	defer vm.Close()
	mem, err := vm.OpenMemory(ctx, hv.MechanismDirect)
	if err != nil {
		return 0, 0, err
	}
	defer mem.Close()
	if _, err := b.g.Virsh(ctx, "suspend", b.g.Name); err != nil {
		return 0, 0, err
	}
	defer func() {
		if _, e := b.g.Virsh(context.WithoutCancel(ctx), "resume", b.g.Name); err == nil {
			err = e
		}
	}()
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return 0, 0, err
	}
	to, err := unix.Mmap(-1, 0, int(set.Pages()*phys.PageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = unix.Munmap(to) }()
	_ = unix.Madvise(to, unix.MADV_HUGEPAGE)
	for i := 0; i < len(to); i += phys.PageSize {
		to[i] = 0
	}
	took, err = copyAll(ctx, mem, set, to)
	return set.Pages(), took, err
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

// snapDump takes a dump and returns what its summary says of the pause.
func (b *bench) snapDump(ctx context.Context) (estimate, pause float64, err error) {
	cmd := exec.CommandContext(ctx, b.program, "dump", b.g.Name, "-c", b.g.URI, "--max-pause", "60s", "--json", "-o", filepath.Join(b.g.Dir(), "bench.dmp.zst"), "--force")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it resumes the guest
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("snap dump: %w", err)
	}
	var sum struct {
		Spooled    bool
		PauseMS    float64 `json:"pause_ms"`
		EstimateMS float64 `json:"pause_estimate_ms"`
	}
	if err := json.Unmarshal(out, &sum); err != nil {
		return 0, 0, err
	}
	if !sum.Spooled {
		return 0, 0, fmt.Errorf("snap dump: the guest's pages don't fit the spool on this host")
	}
	return sum.EstimateMS, sum.PauseMS, nil
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
