package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"snap/phys"
)

// Bounds on the search for page tables.
const (
	// selfMapFirst is where Windows' first page tables nearly always are.
	selfMapFirst = 16 << 20
	// maxSelfMapScan bounds how much RAM is searched beyond that. The System
	// process's table is below 4 GiB, because processors are started with it
	// in 32-bit mode; others are anywhere.
	maxSelfMapScan = 8 << 30
	// maxWitnesses bounds how many page tables that do map a
	// KUSER_SHARED_DATA are searched for a kernel.
	maxWitnesses = 16
	// maxTried bounds the reasons that an error lists.
	maxTried = 16
)

// Discover finds the Windows guest in mem, of which only ram is read. cpus are
// the registers of its virtual processors, in any order; none are needed if
// the memory itself leads to the page tables. Without a Windows that is
// understood the error is of class ErrNotWindows or ErrFiveLevel, and says
// what was tried; where memory could not be read, it is the reader's instead.
//
// Whatever leads to the kernel, a processor in whichever process and mode or a
// scan of RAM, the page tables of the result are the System process's.
func Discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*System, error) {
	if err := fiveLevel(cpus); err != nil {
		return nil, err
	}
	d := &discovery{
		mem: &watchedReader{Reader: mem}, ram: ram, cpus: cpus, search: newKernelSearch(),
		seen: map[phys.Addr]bool{}, barren: map[kernelHalf]string{}, blocks: map[kernelIn]foundBlocks{},
	}
	if err := d.run(ctx); err != nil {
		return nil, err
	}
	if d.found == nil {
		return nil, d.failure()
	}
	return d.found, nil
}

// fiveLevel fails if all processors that page do so with 5 levels.
func fiveLevel(cpus []phys.Registers) error {
	for i := range cpus {
		if cpus[i].CR4&phys.CR4LA57 == 0 {
			return nil
		}
	}
	if len(cpus) == 0 {
		return nil
	}
	return fmt.Errorf("vCPU %d has CR4.LA57 set: %w", cpus[0].CPU, ErrFiveLevel)
}

// discovery is the state of one Discover.
type discovery struct {
	mem    *watchedReader
	ram    phys.Runs
	cpus   []phys.Registers
	search *kernelSearch

	seen      map[phys.Addr]bool    // top-level tables
	barren    map[kernelHalf]string // those without a kernel, and who had them
	blocks    map[kernelIn]foundBlocks
	witnesses int
	tried     []string
	untold    int // attempts beyond maxTried
	found     *System
}

// watchedReader keeps the first error of a reader that isn't about the guest's
// own doing. It is for one goroutine.
type watchedReader struct {
	phys.Reader
	err    error
	failed int
}

func (r *watchedReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	err := r.Reader.ReadPhys(ctx, p, at)
	if err != nil && !errors.Is(err, phys.ErrNotRAM) {
		r.failed++
		if r.err == nil {
			r.err = err
		}
	}
	return err
}

func (d *discovery) run(ctx context.Context) error {
	for _, c := range registerCandidates(d.cpus) {
		if err := d.try(ctx, c); err != nil || d.found != nil {
			return err
		}
	}
	for _, c := range registerCandidates(d.cpus) {
		space := NewAddressSpace(d.mem, d.ram, c.root)
		for _, s := range shadowCandidates(ctx, space, d.cpus) {
			if err := d.try(ctx, s); err != nil || d.found != nil {
				return err
			}
		}
	}
	stubs, err := lowStubs(ctx, d.mem, d.ram)
	if err != nil {
		return err
	}
	for _, c := range stubs {
		if err := d.try(ctx, c); err != nil || d.found != nil {
			return err
		}
	}
	if len(stubs) == 0 {
		d.note("no low stub below 1 MiB")
	}
	return d.scan(ctx)
}

// scan looks for page tables that map themselves.
func (d *discovery) scan(ctx context.Context) error {
	low := phys.Runs{{Base: 0, Pages: selfMapFirst >> phys.PageShift}}
	areas := []phys.Runs{
		d.ram.Intersect(low),
		firstPages(d.ram.Minus(low), maxSelfMapScan>>phys.PageShift),
	}
	var tryErr error
	for _, area := range areas {
		found := 0
		err := selfMaps(ctx, d.mem, area, func(c candidate) bool {
			found++
			tryErr = d.try(ctx, c)
			return tryErr == nil && d.found == nil && d.witnesses < maxWitnesses
		})
		if err := errors.Join(err, tryErr); err != nil || d.found != nil {
			return err
		}
		d.note("%d page tables with a self-map in %d MiB of RAM, none with a kernel", found, area.Pages()>>8)
	}
	return nil
}

// firstPages returns the first n pages of s.
func firstPages(s phys.Runs, n uint64) phys.Runs {
	var out phys.Runs
	for _, r := range s {
		if n == 0 {
			break
		}
		r.Pages = min(r.Pages, n)
		n -= r.Pages
		out = append(out, r)
	}
	return out
}

// note keeps a reason for the error that says what was tried.
func (d *discovery) note(format string, args ...any) {
	if len(d.tried) >= maxTried {
		d.untold++
		return
	}
	d.tried = append(d.tried, fmt.Sprintf(format, args...))
}

func (d *discovery) failure() error {
	tried := strings.Join(d.tried, "; ")
	if d.untold > 0 {
		tried = fmt.Sprintf("%s; and %d more", tried, d.untold)
	}
	if d.mem.err != nil {
		return fmt.Errorf("look for Windows: %d reads of memory failed, the first: %w (%s)", d.mem.failed, d.mem.err, tried)
	}
	return fmt.Errorf("%w (%s)", ErrNotWindows, tried)
}

// try looks for the guest in the page table of c. It fails only when ctx ends;
// what is wrong with the candidate is noted.
func (d *discovery) try(ctx context.Context, c candidate) error {
	if d.seen[c.root] || d.witnesses >= maxWitnesses {
		return nil
	}
	d.seen[c.root] = true
	sys, err := d.follow(ctx, c)
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("look for Windows: %w", ctxErr)
	}
	if err != nil {
		d.note("%s (%#x): %s", c.from, uint64(c.root), strings.ReplaceAll(err.Error(), "\n", ", "))
		return nil
	}
	d.found = sys
	return nil
}
