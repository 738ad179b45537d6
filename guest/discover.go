package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"snap/guest/phys"
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
	maxWitnesses = 64
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
		mem: &watchedReader{Reader: mem}, ram: ram, cpus: cpus, search: newKernelSearch(), seen: map[phys.Addr]bool{},
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

	seen      map[phys.Addr]bool // top-level tables
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
		d.note("%s (%#x): %v", c.from, uint64(c.root), err)
		return nil
	}
	d.found = sys
	return nil
}

// follow goes from a candidate to the kernel, from there to the System process
// and to its page table, and reads the guest by that.
func (d *discovery) follow(ctx context.Context, c candidate) (*System, error) {
	if !d.ram.Has(c.root.PFN()) {
		return nil, phys.ErrNotRAM
	}
	space := NewAddressSpace(d.mem, d.ram, c.root)
	if _, err := ReadKUSER(ctx, space); err != nil {
		return nil, err
	}
	d.witnesses++
	kernel, how, err := d.search.find(ctx, space, append(c.hints, registerHints(ctx, space, d.cpus)...))
	if err != nil {
		return nil, err
	}
	blocks, err := FindKDBG(ctx, kernel)
	if err != nil {
		return nil, err
	}
	var reasons []error
	for _, k := range blocks {
		sys, err := d.believe(ctx, space, kernel, k)
		if err == nil {
			sys.Witness = c.from
			sys.Origins["KernBase"] = how
			sys.match(ctx, d.cpus)
			if len(blocks) > 1 {
				sys.warn("%d debugger data blocks in the kernel image; the one at %#x agrees with the rest of the guest",
					len(blocks), uint64(k.At))
			}
			return sys, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reasons = append(reasons, fmt.Errorf("KDBG at %#x: %w", uint64(k.At), err))
	}
	return nil, errors.Join(reasons...)
}

// believe checks a KDBG against the kernel it was found in and, through it,
// gets at the System process's page table, by which it reads the guest.
func (d *discovery) believe(ctx context.Context, space *AddressSpace, kernel *Image, k KDBG) (*System, error) {
	if err := agreesWithExports(ctx, kernel, &k); err != nil {
		return nil, err
	}
	if err := listHead(ctx, space, "PsLoadedModuleList", k.va(kdbgPsLoadedModuleList)); err != nil {
		return nil, err
	}
	eprocess, from, err := systemProcess(ctx, space, kernel, &k)
	if err != nil {
		return nil, err
	}
	root, err := processRoot(ctx, space, eprocess, &k)
	if err != nil {
		return nil, fmt.Errorf("System process: %w", err)
	}
	own := NewAddressSpace(d.mem.Reader, d.ram, root) // outlives the discovery
	slot, err := sameGuest(ctx, space, own, kernel.Base, &k)
	if err != nil {
		return nil, fmt.Errorf("page table %#x of the System process: %w", uint64(root), err)
	}
	im, err := ReadImage(ctx, own, kernel.Base)
	if err != nil {
		return nil, err
	}
	sys := &System{
		Space: own, Kernel: im, KDBG: k, DirectoryTableBase: root, SelfMapSlot: slot,
		PsInitialSystemProcess: eprocess,
		Origins:                map[string]string{"DirectoryTableBase": from},
	}
	return sys, sys.fill(ctx)
}

// sameGuest checks that own, the page table of the System process, maps what
// space does: the shared data, the kernel at the same place in RAM, and itself
// where the KDBG says. It returns the slot of the self-map.
func sameGuest(ctx context.Context, space, own *AddressSpace, kernBase phys.VirtAddr, k *KDBG) (int, error) {
	slot, err := selfMapSlot(ctx, own, k)
	if err != nil {
		return 0, err
	}
	for _, va := range []phys.VirtAddr{KUSERAddress, kernBase} {
		got, err := own.Translate(ctx, va)
		if err != nil {
			return 0, err
		}
		want, err := space.Translate(ctx, va)
		if err != nil {
			return 0, err
		}
		if got.Addr != want.Addr {
			return 0, fmt.Errorf("%w: %#x is at %#x, not at %#x as for the processor", ErrMalformed,
				uint64(va), uint64(got.Addr), uint64(want.Addr))
		}
	}
	return slot, nil
}

// selfMapSlot returns the slot of the top-level table's one entry for itself,
// which must be where the KDBG's PteBase says, if it says.
func selfMapSlot(ctx context.Context, space *AddressSpace, k *KDBG) (int, error) {
	slots, err := space.selfMapSlots(ctx)
	if err != nil {
		return 0, err
	}
	if len(slots) != 1 {
		return 0, fmt.Errorf("%w: %d entries of the kernel half map the table itself", ErrMalformed, len(slots))
	}
	const signBits = 0xFFFF << 48
	base := uint64(signBits) | uint64(slots[0])<<levelShift(topLevel)
	if want, ok := k.value(kdbgPteBase); ok && want != 0 && want != base {
		return 0, fmt.Errorf("%w: self-map at %#x, but PteBase is %#x", ErrMalformed, base, want)
	}
	return slots[0], nil
}
