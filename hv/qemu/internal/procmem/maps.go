package procmem

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"snap/hv"
)

// maxMappings bounds the lines of a maps file (vm.max_map_count is 65530 unless
// somebody raised it).
const maxMappings = 1 << 20

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end uint64
	exact      uint64 // end of the kernel's own mapping, where neighbours were joined
	perms      string
	offset     uint64 // in the file
	dev        string // major:minor in hexadecimal
	inode      uint64
	path       string
}

func (m mapping) shared() bool { return len(m.perms) == 4 && m.perms[3] == 's' }

func (m mapping) readable() bool { return m.perms != "" && m.perms[0] == 'r' }

// follows reports whether m goes on where p ends, with the same thing behind it.
func (m mapping) follows(p mapping) bool {
	return m.start == p.end && m.shared() == p.shared() && m.readable() && m.dev == p.dev && m.inode == p.inode &&
		(m.inode == 0 || m.offset == p.offset+(p.end-p.start))
}

func parseMaps(r io.Reader) ([]mapping, error) {
	var out []mapping
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return nil, err
		}
		if len(out) == maxMappings {
			return nil, fmt.Errorf("%w: it has more than %d mappings", hv.ErrUnsupported, maxMappings)
		}
		out = append(out, m)
	}
	return out, lines.Err()
}

func parseMapping(line string) (mapping, error) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 5 {
		return mapping{}, fmt.Errorf("%w: mapping %q is of an unknown form", hv.ErrUnsupported, line)
	}
	lo, hi, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(lo, 16, 64)
	end, err2 := strconv.ParseUint(hi, 16, 64)
	offset, err3 := strconv.ParseUint(f[2], 16, 64)
	inode, err4 := strconv.ParseUint(f[4], 10, 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return mapping{}, fmt.Errorf("%w: mapping %q is of an unknown form", hv.ErrUnsupported, line)
	}
	m := mapping{start: start, end: end, exact: end, perms: f[1], offset: offset, dev: f[3], inode: inode}
	if len(f) == 6 {
		m.path = strings.TrimLeft(f[5], " ")
	}
	return m, nil
}

// span returns the mapping that holds [at, at+size). Neighbours that the kernel
// keeps apart for its own reasons (policies, flags) count as one if the same
// thing is behind them.
func span(maps []mapping, at, size uint64) (mapping, error) {
	end := at + size
	if end < at {
		return mapping{}, fmt.Errorf("range %#x+%#x wraps around", at, size)
	}
	for i, m := range maps {
		if at < m.start || at >= m.end {
			continue
		}
		if !m.readable() {
			return mapping{}, fmt.Errorf("mapping at %#x is not readable (%s)", m.start, m.perms)
		}
		for _, next := range maps[i+1:] {
			if m.end >= end || !next.follows(m) {
				break
			}
			m.end = next.end
		}
		if m.end < end {
			return mapping{}, fmt.Errorf("mapping %#x-%#x ends before %#x", m.start, m.end, end)
		}
		return m, nil
	}
	return mapping{}, fmt.Errorf("no mapping at %#x", at)
}
