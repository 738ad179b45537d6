// Command benchpeek measures how a lab guest's memory is read through libvirt: what a
// call costs by its length, reading all of memory once by the largest calls, and snap
// dump --source peek of the same guest.
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
	memory := flag.Uint64("memory", 1024, "`MiB` of the guest's memory")
	fill := flag.Uint64("fill", 768, "`MiB` of it that the guest fills")
	rounds := flag.Int("rounds", 5, "how often each is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *memory, *fill, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "benchpeek:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program string, memory, fill uint64, rounds int) (err error) {
	g, err := lab.Up(ctx, lab.Spec{Name: "benchpeek", MemoryMiB: memory, CPUs: 2, FillMiB: fill, Seed: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	b := &bench{g: g, program: program}
	if err := b.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.calls(ctx); err != nil {
		return err
	}
	return b.dumps(ctx, rounds)
}

type bench struct {
	g       *lab.Guest
	program string
	conn    *libvirt.Conn
	mem     hv.Memory
}

func (b *bench) open(ctx context.Context) error {
	conn, err := libvirt.Connect(ctx, b.g.URI)
	if err != nil {
		return err
	}
	vm, err := conn.LookupDomain(ctx, b.g.Name)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	mem, err := vm.OpenMemory(ctx, hv.MechanismPeek)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	b.conn, b.mem = conn, mem
	return nil
}

func (b *bench) close() error { return errors.Join(b.mem.Close(), b.conn.Close()) }

// calls prints what a call costs by its length, one after the other and several at a
// time, of the running guest.
func (b *bench) calls(ctx context.Context) error {
	fmt.Println("| one call | ms | MiB/s | ms, 4 under way | MiB/s |")
	fmt.Println("|---|---|---|---|---|")
	for _, size := range []uint64{4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 4 << 20} {
		const most = 64 << 20
		parts := piecesOf(b.mem.RAM(), size)
		parts = parts[len(parts)/4:]
		parts = parts[:min(uint64(len(parts)), 128, max(8, most/size))]
		var took [2]time.Duration
		for i, flight := range []int{1, 4} {
			var err error
			if took[i], err = b.read(ctx, parts, flight); err != nil {
				return err
			}
		}
		bytes := float64(len(parts)) * float64(size) / (1 << 20)
		fmt.Printf("| %d KiB | %.2f | %.0f | %.2f | %.0f |\n", size>>10,
			ms(took[0])/float64(len(parts)), bytes/took[0].Seconds(), ms(took[1])/float64(len(parts)), bytes/took[1].Seconds())
	}
	batch := hv.BatchOf(b.mem)
	const looks = 100
	start := time.Now()
	for range looks {
		if err := batch.Vouch(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("\nLooking up the domain: %.2f ms.\n\n", ms(time.Since(start))/looks)
	return nil
}

// read reads the parts in one batch and returns how long that took.
func (b *bench) read(ctx context.Context, parts []phys.Run, flight int) (time.Duration, error) {
	batch := hv.BatchOf(b.mem)
	var next atomic.Int64
	start := time.Now()
	var group errgroup.Group
	for range flight {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(parts)); i = next.Add(1) - 1 {
				if err := batch.ReadPhys(ctx, make([]byte, parts[i].Size()), parts[i].Base.Addr()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return time.Since(start), errors.Join(err, batch.Vouch(ctx))
}

// readAll reads all of memory once, of the guest as it stands still.
func (b *bench) readAll(ctx context.Context) (_ time.Duration, err error) {
	if _, err := b.g.Virsh(ctx, "suspend", b.g.Name); err != nil {
		return 0, err
	}
	defer func() {
		_, e := b.g.Virsh(context.WithoutCancel(ctx), "resume", b.g.Name)
		err = errors.Join(err, e)
	}()
	cost := hv.ReadCostOf(b.mem)
	return b.read(ctx, piecesOf(b.mem.RAM(), cost.Most), cost.Flight)
}

// dumps prints rounds of reading all memory, and dumping it with and without a copy.
func (b *bench) dumps(ctx context.Context, rounds int) error {
	fmt.Println("| round | load | read once | dump: estimate | pause | all | without a copy: estimate | pause | all |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	var all [][]float64
	for i := range rounds {
		load, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			return err
		}
		once, err := b.readAll(ctx)
		if err != nil {
			return err
		}
		v := []float64{ms(once)}
		for _, spool := range []string{"auto", "off"} {
			sum, err := b.dump(ctx, spool)
			if err != nil {
				return err
			}
			v = append(v, sum.EstimateMS, sum.PauseMS, sum.DurationMS)
		}
		all = append(all, v)
		row(strconv.Itoa(i+1), string(load[:4]), v)
	}
	m := medians(all)
	row("median", "", m)
	fmt.Printf("\nMilliseconds. %d processors, %d MiB of RAM. Of the medians: all / read once = %.2f, without a copy %.2f\n",
		runtime.NumCPU(), b.mem.RAM().Pages()>>(20-phys.PageShift), m[3]/m[0], m[6]/m[0])
	return nil
}

func row(name, load string, v []float64) {
	fmt.Printf("| %s | %s", name, load)
	for _, x := range v {
		fmt.Printf(" | %.0f", x)
	}
	fmt.Println(" |")
}

// summary is what a dump says of itself, in milliseconds.
type summary struct {
	PauseMS    float64 `json:"pause_ms"`
	EstimateMS float64 `json:"pause_estimate_ms"`
	DurationMS float64 `json:"duration_ms"`
}

func (b *bench) dump(ctx context.Context, spool string) (sum summary, err error) {
	cmd := exec.CommandContext(ctx, b.program, "dump", b.g.Name, "-c", b.g.URI, "--source", "peek", "--mode", "pause",
		"--spool", spool, "--max-pause", "10m", "--json", "-o", filepath.Join(b.g.Dir(), "bench.dmp.zst"), "--force")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it resumes the guest
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return sum, fmt.Errorf("snap dump: %w", err)
	}
	return sum, json.Unmarshal(out, &sum)
}

func piecesOf(ram phys.Runs, size uint64) []phys.Run {
	var out []phys.Run
	for _, r := range ram {
		for at := r.Base; at < r.End(); at += phys.PFN(size >> phys.PageShift) {
			out = append(out, phys.Run{Base: at, Pages: min(size>>phys.PageShift, uint64(r.End()-at))})
		}
	}
	return out
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

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
