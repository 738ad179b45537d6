package qemu

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"snap/phys"
)

// maxRanges bounds the ranges of a flat view that we believe. Machines have a
// few dozen.
const maxRanges = 65536

// flatRange is a line of QEMU's flat view: guest-physical addresses and what is
// behind them.
type flatRange struct {
	first, last uint64 // inclusive, bytes
	kind        string // ram, rom, romd, ramd, i/o, with nv- in front for non-volatile
	region      string
	offset      uint64 // in the region, bytes
}

// Lines of `info mtree -f` (mtree_print_flatview in QEMU's system/memory.c).
var (
	flatViewLine = regexp.MustCompile(`^FlatView #\d+$`)
	flatASLine   = regexp.MustCompile(`^ AS "(.*)", root: `)
	flatRootLine = regexp.MustCompile(`^ Root memory region: `)
	flatLine     = regexp.MustCompile(
		`^  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ([a-z/-]+)\): (.+?)(?: @([0-9a-f]{16}))?( [A-Za-z]+)?$`)
)

// errNoFlatView says that the monitor's answer held no view of guest memory.
var errNoFlatView = errors.New("no flat view of address space \"memory\"")

// parseMtree returns the ranges of the flat view that the address space "memory"
// uses, from the output of `info mtree -f`. They ascend and don't overlap.
func parseMtree(text string) ([]flatRange, error) {
	wanted, found := false, false
	var out []flatRange
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if flatViewLine.MatchString(line) {
			if found {
				break
			}
			wanted = false
			continue
		}
		if m := flatASLine.FindStringSubmatch(line); m != nil {
			wanted = wanted || m[1] == "memory"
			found = found || wanted
			continue
		}
		if !wanted || line == "" || flatRootLine.MatchString(line) || strings.HasPrefix(line, "  No rendered FlatView") {
			continue
		}
		r, err := parseFlatLine(line)
		if err != nil {
			return nil, err
		}
		if n := len(out); n == maxRanges || (n > 0 && r.first <= out[n-1].last) {
			return nil, fmt.Errorf("flat view: range %d at %#x is out of order or one too many", n, r.first)
		}
		out = append(out, r)
	}
	if !found || len(out) == 0 {
		return nil, errNoFlatView
	}
	return out, nil
}

func parseFlatLine(line string) (flatRange, error) {
	m := flatLine.FindStringSubmatch(line)
	if m == nil {
		return flatRange{}, fmt.Errorf("flat view: line %q is of an unknown form", line)
	}
	first, err1 := strconv.ParseUint(m[1], 16, 64)
	last, err2 := strconv.ParseUint(m[2], 16, 64)
	var offset uint64
	var err3 error
	if m[5] != "" {
		offset, err3 = strconv.ParseUint(m[5], 16, 64)
	}
	if err := errors.Join(err1, err2, err3); err != nil || last < first {
		return flatRange{}, fmt.Errorf("flat view: line %q has no valid range", line)
	}
	return flatRange{first: first, last: last, kind: m[3], region: m[4], offset: offset}, nil
}

// block is a line of `info ramblock` (ram_block_format in QEMU's system/physmem.c).
type block struct {
	name string // as QEMU's migration knows it
	used uint64 // bytes
}

var blockLine = regexp.MustCompile(`^\s*(\S+)\s+\d+ [KMGT]iB\s+0x[0-9a-f]+ 0x([0-9a-f]+) 0x[0-9a-f]+`)

// parseRAMBlocks returns the blocks of memory that QEMU allocated, from the
// output of `info ramblock`.
func parseRAMBlocks(text string) ([]block, error) {
	var out []block
	for line := range strings.Lines(text) {
		m := blockLine.FindStringSubmatch(line)
		if m == nil {
			if strings.Contains(line, "Block Name") || strings.TrimSpace(line) == "" {
				continue
			}
			return nil, fmt.Errorf("RAM blocks: line %q is of an unknown form", strings.TrimSpace(line))
		}
		used, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			return nil, fmt.Errorf("RAM blocks: line %q: %w", strings.TrimSpace(line), err)
		}
		out = append(out, block{m[1], used})
	}
	if len(out) == 0 {
		return nil, errors.New("RAM blocks: none listed")
	}
	return out, nil
}

// mainBlock matches the machine's own memory: the default backend, and libvirt's
// names for NUMA nodes.
var mainBlock = regexp.MustCompile(`^(pc\.ram|ram-node\d+)$`)

// blockName returns a region's name as a backend's id. Machine types before 4.0
// use the whole object path (x-use-canonical-path-for-ramblock-id in QEMU's
// backends/hostmem.c).
func blockName(region string) string {
	if strings.HasPrefix(region, "/objects/") {
		return path.Base(region)
	}
	return region
}

// vgaWindow is where x86 machines decode legacy VGA memory and SMRAM instead of
// RAM: its meaning changes with bits that the guest sets, so it is never read.
var vgaWindow = phys.Runs{{Base: 0xa0, Pages: 0x20}}
