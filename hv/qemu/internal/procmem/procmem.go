// Package procmem reads guest memory out of the process that runs the guest on
// this host.
//
// What lies behind an address decides how it is read, so that nothing comes to be in
// the process by that: no page, and no page table. Private anonymous memory is copied
// with process_vm_readv, but for pages that aren't there, which its page table says.
// Memory that is a file's (memfd, tmpfs, hugetlbfs) is read from that file: reading
// its holes through the process would allocate them for good.
package procmem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/phys"
)

// maxCopy is how much one system call copies: large enough that its cost
// vanishes, small enough that a context's end is noticed soon.
const maxCopy = 4 << 20

// Range says where a run of guest pages lies in the process.
type Range struct {
	Run phys.Run
	HVA uint64 // address in the process of the run's first byte
}

// Memory is guest memory in a process. It is safe for concurrent use.
type Memory struct {
	pid     int
	pidfd   *os.File
	pagemap *os.File // nil where the host doesn't let us read it
	pieces  []piece  // ascending, without overlaps
	ram     phys.Runs

	mu     sync.RWMutex // held for reading by reads, so that Close waits for them
	closed bool

	populatedThen atomic.Pointer[phys.Runs] // what Populated found; nil before it has
}

var _ hv.Memory = (*Memory)(nil)

// piece is a Range with what is behind it.
type piece struct {
	run     phys.Run
	hva     uint64
	file    *os.File // nil for anonymous memory
	fileOff int64    // of the run's first byte
	private bool     // a private mapping: pages that were written to are not in file
}

// Open opens the memory of the process pid. verify is called after the process
// can't be mistaken for another any more, and must fail unless it is the right
// one. An error is hv.ErrDenied where the host forbids it, and hv.ErrUnsupported
// where it can't be done without harm.
func Open(pid int, ranges []Range, verify func() error) (*Memory, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	m := &Memory{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if err := m.open(ranges, verify); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Memory) open(ranges []Range, verify func() error) error {
	if err := verify(); err != nil {
		return err
	}
	maps, err := m.readMaps()
	if err != nil {
		return err
	}
	m.pagemap, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", m.pid))
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("open page table: %w", err)
	}
	files := make(map[string]*os.File)
	for _, r := range ranges {
		p, err := m.locate(r, maps, files)
		if err != nil {
			return fmt.Errorf("guest memory %v at %#x in process %d: %w", r.Run, r.HVA, m.pid, err)
		}
		m.pieces = append(m.pieces, p)
	}
	if err := m.index(); err != nil {
		return err
	}
	if err := m.alive(); err != nil {
		return err
	}
	return m.probe()
}

func (m *Memory) readMaps() ([]mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", m.pid))
	if err != nil {
		return nil, denied(fmt.Errorf("list mappings: %w", err))
	}
	defer f.Close()
	maps, err := parseMaps(f)
	if err != nil {
		return nil, denied(fmt.Errorf("list mappings of process %d: %w", m.pid, err))
	}
	return maps, nil
}

// denied gives permission errors their class and the way out.
func denied(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %w; run as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH", hv.ErrDenied, err)
	}
	return err
}

// locate finds what is behind r.
func (m *Memory) locate(r Range, maps []mapping, files map[string]*os.File) (piece, error) {
	vma, err := span(maps, r.HVA, r.Run.Size())
	if err != nil {
		return piece{}, fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	p := piece{run: r.Run, hva: r.HVA, private: !vma.shared()}
	if vma.inode == 0 && p.private {
		return p, nil
	}
	key := fmt.Sprintf("%s:%d", vma.dev, vma.inode)
	if files[key] == nil {
		f, err := m.openBacking(vma)
		if err != nil {
			return piece{}, denied(err)
		}
		files[key] = f
	}
	p.file = files[key]
	p.fileOff = int64(vma.offset + (r.HVA - vma.start))
	if p.private && m.pagemap == nil {
		return piece{}, fmt.Errorf("private mapping of %s: %w: its page table must be readable", vma.path, hv.ErrDenied)
	}
	info, err := p.file.Stat()
	if err != nil {
		return piece{}, fmt.Errorf("look at %s: %w", vma.path, err)
	}
	if p.fileOff < 0 || info.Size()-p.fileOff < int64(r.Run.Size()) {
		return piece{}, fmt.Errorf("%w: %s has %d bytes, too few for the mapping", hv.ErrUnsupported, vma.path, info.Size())
	}
	return p, nil
}

// openBacking opens the file behind a mapping for reading: by one of the process's
// own descriptors, which its user may do, else by the mapping, which root may.
func (m *Memory) openBacking(vma mapping) (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", m.pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list descriptors: %w", err)
	}
	for _, fd := range fds {
		name := dir + "/" + fd.Name()
		var st unix.Stat_t
		if unix.Stat(name, &st) != nil || !sameFile(&st, vma) || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if f, err := openSame(name, vma); err == nil {
			return f, nil
		}
	}
	return openSame(fmt.Sprintf("/proc/%d/map_files/%x-%x", m.pid, vma.start, vma.exact), vma)
}

// openSame opens what is behind vma by that name. A device isn't opened: who knows
// what that does.
func openSame(name string, vma mapping) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%w: %s, which is behind the memory, is not a regular file", hv.ErrUnsupported, vma.path)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open the file behind the memory: %w", err)
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("look at %s: %w", name, err), f.Close())
	}
	if !sameFile(&st, vma) {
		return nil, errors.Join(fmt.Errorf("%w: %s is not the file behind %s", hv.ErrUnsupported, name, vma.path), f.Close())
	}
	return f, nil
}

func sameFile(st *unix.Stat_t, vma mapping) bool {
	dev := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
	return st.Ino == vma.inode && dev == vma.dev
}

// index sorts the pieces and makes the RAM map of them.
func (m *Memory) index() error {
	var runs []phys.Run
	var pages uint64
	sortPieces(m.pieces)
	for _, p := range m.pieces {
		runs = append(runs, p.run)
		pages += p.run.Pages
	}
	var err error
	if m.ram, err = phys.NewRuns(runs...); err != nil {
		return fmt.Errorf("RAM map: %w", err)
	}
	if m.ram.Pages() != pages {
		return fmt.Errorf("%w: RAM map: ranges overlap", hv.ErrUnsupported)
	}
	return nil
}

// probe shows a lack of permission at once. It asks for a byte that no process
// has: permission is checked first, and no page of the guest is touched.
func (m *Memory) probe() error {
	if len(m.pieces) == 0 {
		return fmt.Errorf("%w: no guest memory in process %d", hv.ErrUnsupported, m.pid)
	}
	if !slices.ContainsFunc(m.pieces, func(p piece) bool { return p.private }) {
		return nil
	}
	_, err := vmRead(m.pid, make([]byte, 1), 0)
	if err == nil || errors.Is(err, unix.EFAULT) {
		return nil
	}
	return denied(fmt.Errorf("read the memory of process %d: %w", m.pid, err))
}

// alive fails if the process has ended: whatever has its id now is another.
func (m *Memory) alive() error {
	fds := []unix.PollFd{{Fd: int32(m.pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at process %d: %w", m.pid, err)
		}
		if n != 0 {
			return fmt.Errorf("process %d has ended: %w", m.pid, hv.ErrNotRunning)
		}
		return nil
	}
}

// Mechanism implements hv.Memory.
func (m *Memory) Mechanism() hv.Mechanism { return hv.MechanismDirect }

// RAM implements hv.Memory.
func (m *Memory) RAM() phys.Runs { return m.ram }

// Close implements hv.Memory.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	errs := []error{m.pidfd.Close()}
	if m.pagemap != nil {
		errs = append(errs, m.pagemap.Close())
	}
	seen := make(map[*os.File]bool)
	for _, p := range m.pieces {
		if p.file != nil && !seen[p.file] {
			seen[p.file] = true
			errs = append(errs, p.file.Close())
		}
	}
	return errors.Join(errs...)
}

// Populated implements hv.Memory. It is unknown where the host doesn't let us see
// the process's page table.
func (m *Memory) Populated(ctx context.Context) (phys.Runs, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, false, os.ErrClosed
	}
	var runs []phys.Run
	for _, p := range m.pieces {
		rs, known, err := m.populated(ctx, p)
		if err != nil {
			return nil, false, fmt.Errorf("find populated memory in %v: %w", p.run, err)
		}
		if !known {
			return m.ram, false, nil
		}
		runs = append(runs, rs...)
	}
	if err := m.alive(); err != nil {
		return nil, false, err
	}
	set, err := phys.NewRuns(runs...)
	if err != nil {
		return nil, false, fmt.Errorf("find populated memory: %w", err)
	}
	m.populatedThen.Store(&set)
	return set, true, nil
}
