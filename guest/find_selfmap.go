package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// Bounds on the search for page tables that map themselves.
const (
	// selfMapFirst is where Windows' first page tables nearly always are.
	selfMapFirst = 16 << 20
	// maxSelfMapScan bounds how much RAM is searched beyond that. The System
	// process's table is below 4 GiB, because processors are started with it
	// in 32-bit mode; others are anywhere.
	maxSelfMapScan = 8 << 30
)

const selfMapTrust = "any page of RAM can look like a page table that maps itself"

// findSelfMap looks for page tables where the first ones of a boot are.
var findSelfMap = finder{
	Finder: Finder{Name: "self-map scan of low memory", Cost: "reads the first 16 MiB", Trust: selfMapTrust},
	find: func(ctx context.Context, d *discovery, try func(candidate) bool) (string, error) {
		return scanForSelfMaps(ctx, d, d.ram.Intersect(lowMemory()), nil, "", try)
	},
}

// findSelfMapBeyond looks for page tables in the rest of RAM.
var findSelfMapBeyond = finder{
	Finder:   Finder{Name: "self-map scan of all memory", Cost: "reads RAM, at most 8 GiB", Trust: selfMapTrust},
	readsAll: true,
	find: func(ctx context.Context, d *discovery, try func(candidate) bool) (string, error) {
		all := populated(ctx, d.mem.Reader, d.ram).Minus(lowMemory())
		area := firstPages(all, maxSelfMapScan>>phys.PageShift)
		var ended string
		if left := all.Pages() - area.Pages(); left > 0 {
			ended = fmt.Sprintf("; ended there, %d MiB were not looked at", left>>8)
		}
		return scanForSelfMaps(ctx, d, area, d.scanned, ended, try)
	},
}

func lowMemory() phys.Runs {
	return phys.Runs{{Base: 0, Pages: selfMapFirst >> phys.PageShift}}
}

// scanForSelfMaps offers try the pages of area that look like a top-level table, in
// ascending order: those that have exactly one entry for themselves in their kernel
// half, which is the upper half of their entries in every paging. Any process's kernel
// page table looks so: their kernel halves are alike. Where the top-level table is but a
// row of entries, the table that begins with the same ones does for it. scanned hears how far it is. The
// note ends with ended.
func scanForSelfMaps(ctx context.Context, d *discovery, area phys.Runs, scanned func(done, total uint64), ended string, try func(candidate) bool) (string, error) {
	found := 0
	scan := ramScan{mem: d.mem.Reader, area: area, like: d.likeRoot, scanned: scanned}
	err := scan.each(ctx, d.mem, func(root phys.Addr) bool {
		found++
		return try(candidate{root: root, from: fmt.Sprintf("self-map scan at %#x", uint64(root))})
	})
	return fmt.Sprintf("%d page tables with a self-map in %d MiB of RAM, none with a kernel%s", found, area.Pages()>>8, ended), err
}

// likeRoot reports whether a page looks like a top-level table of any paging: it maps
// itself, and may have a table in RAM for the address of KUSER_SHARED_DATA, which every
// Windows maps. Of nearly all pages it looks at one entry for each paging, so that a
// scan costs hardly more than its reading.
func (d *discovery) likeRoot(page []byte, at phys.Addr) bool {
	for _, p := range d.pagings {
		e := p.entry(page, p.index(d.arch.kuser, p.top))
		if e&p.present != 0 && p.at(e).PFN() < d.ram.End() && p.selfMapped(page, at) {
			return true
		}
	}
	return false
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
