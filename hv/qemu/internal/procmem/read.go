package procmem

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"snap/phys"
)

func sortPieces(ps []piece) {
	slices.SortFunc(ps, func(a, b piece) int { return cmp.Compare(a.run.Base, b.run.Base) })
}

// ReadPhys implements phys.Reader. Where a page can't be read, the error's At is
// the first such byte.
func (m *Memory) ReadPhys(ctx context.Context, b []byte, at phys.Addr) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return &phys.AccessError{At: at, Len: len(b), Err: os.ErrClosed}
	}
	if !m.ram.Covers(at, uint64(len(b))) {
		return &phys.AccessError{At: at, Len: len(b), Err: phys.ErrNotRAM}
	}
	for done := 0; done < len(b); {
		here := at + phys.Addr(done)
		if err := ctx.Err(); err != nil {
			return &phys.AccessError{At: here, Len: len(b) - done, Err: err}
		}
		p := m.find(here.PFN())
		off := uint64(here - p.run.Base.Addr())
		n := int(min(uint64(len(b)-done), p.run.Size()-off, maxCopy))
		got, err := m.read(ctx, p, b[done:done+n], off)
		if err != nil {
			return &phys.AccessError{At: here + phys.Addr(got), Len: n - got, Err: err}
		}
		done += n
	}
	if err := m.alive(); err != nil {
		return &phys.AccessError{At: at, Len: len(b), Err: err}
	}
	return nil
}

// find returns the piece that holds page n, which is in the RAM map.
func (m *Memory) find(n phys.PFN) piece {
	i := sort.Search(len(m.pieces), func(i int) bool { return m.pieces[i].run.End() > n })
	return m.pieces[i]
}

// read fills b from offset off of p and returns how much it read before an error.
func (m *Memory) read(ctx context.Context, p piece, b []byte, off uint64) (int, error) {
	switch {
	case p.file == nil:
		return vmRead(m.pid, b, p.hva+off)
	case p.private:
		return m.readPrivate(ctx, p, b, off)
	}
	return readFile(p.file, b, p.fileOff+int64(off))
}

// readPrivate reads a private mapping of a file: the pages that the process wrote
// to are its own, and so are pages of zeros that it was given in their place; the
// others are the file's.
func (m *Memory) readPrivate(ctx context.Context, p piece, b []byte, off uint64) (int, error) {
	at := p.hva + off
	page := uint64(os.Getpagesize())
	end := at + uint64(len(b))
	own, err := present(ctx, m.pagemap, hostRange{at &^ (page - 1), (end + page - 1) &^ (page - 1)}, ownPages)
	if err != nil {
		return 0, err
	}
	done := at // all before it is read
	for _, r := range own {
		lo, hi := max(r.start, at), min(r.end, end)
		if n, err := readFile(p.file, b[done-at:lo-at], p.fileOff+int64(done-p.hva)); err != nil {
			return int(done-at) + n, err
		}
		if n, err := vmRead(m.pid, b[lo-at:hi-at], lo); err != nil {
			return int(lo-at) + n, err
		}
		done = hi
	}
	n, err := readFile(p.file, b[done-at:], p.fileOff+int64(done-p.hva))
	return int(done-at) + n, err
}

// vmRead copies from the memory of process pid. The kernel stops at the first
// page that it can't read and returns what it has.
func vmRead(pid int, b []byte, at uint64) (int, error) {
	done := 0
	for done < len(b) {
		local := []unix.Iovec{{Base: &b[done]}}
		local[0].SetLen(len(b) - done)
		remote := []unix.RemoteIovec{{Base: uintptr(at) + uintptr(done), Len: len(b) - done}}
		n, err := unix.ProcessVMReadv(pid, local, remote, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, os.NewSyscallError("process_vm_readv", err)
		}
		if n <= 0 {
			return done, io.ErrUnexpectedEOF
		}
		done += n
	}
	return done, nil
}

func readFile(f *os.File, b []byte, off int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(b, off)
	if n < len(b) && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // it was truncated under us
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

// maxFileRuns bounds the populated runs of memory in one file; where there would be
// more, the smallest holes count as populated.
const maxFileRuns = 1 << 22

// populated returns the pages of p that can hold anything but zeros.
func (m *Memory) populated(ctx context.Context, p piece) (runs []phys.Run, known bool, err error) {
	if p.private && m.pagemap == nil {
		return nil, false, nil
	}
	if p.private {
		own, err := present(ctx, m.pagemap, hostRange{p.hva, p.hva + p.run.Size()}, filledPages)
		if err != nil {
			return nil, false, err
		}
		for _, r := range own {
			runs = append(runs, p.pages(r.start-p.hva, r.end-p.hva)...)
		}
	}
	if p.file != nil {
		set := phys.RunBuilder{Most: maxFileRuns}
		err := p.eachData(ctx, func(lo, hi int64) {
			for _, r := range p.pages(uint64(lo-p.fileOff), uint64(hi-p.fileOff)) {
				set.Add(r)
			}
		})
		if err != nil {
			return nil, false, err
		}
		runs = append(runs, set.Runs()...)
	}
	return runs, true, nil
}

// pages returns the guest pages that the bytes [lo, hi) of p touch.
func (p piece) pages(lo, hi uint64) []phys.Run {
	r, ok := phys.RunOf(p.run.Base.Addr()+phys.Addr(lo), hi-lo)
	if !ok {
		return nil
	}
	return []phys.Run{r}
}
