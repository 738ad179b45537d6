package procmem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	case p.file != nil && !p.private:
		return readFile(p.file, b, p.fileOff+int64(off))
	case p.file != nil || m.pagemap != nil && !m.isPopulated(p, off, len(b)):
		return m.readPrivate(ctx, p, b, off)
	}
	return vmRead(m.pid, b, p.hva+off)
}

// isPopulated reports whether all of [off, off+n) of p was populated when that was
// last asked for.
func (m *Memory) isPopulated(p piece, off uint64, n int) bool {
	set := m.populatedThen.Load()
	return set != nil && set.Covers(p.run.Base.Addr()+phys.Addr(off), uint64(n))
}

// readPrivate is read of a private mapping by what the process has there: pages of
// its own, in whose place there may be zeros by now, and for all others the file's,
// or zeros. Nothing comes to be in the process by that: anonymous memory that was
// only read has a page of zeros, and page tables for it.
func (m *Memory) readPrivate(ctx context.Context, p piece, b []byte, off uint64) (int, error) {
	at := p.hva + off
	page := uint64(os.Getpagesize())
	end := at + uint64(len(b))
	var has []part
	mapped, err := eachPart(ctx, m.pagemap, hostRange{at &^ (page - 1), (end + page - 1) &^ (page - 1)}, func(r part) {
		has = append(has, r)
	})
	if err != nil {
		return 0, err
	}
	if !mapped && p.file == nil {
		return vmRead(m.pid, b, at) // which fails where nothing is mapped
	}
	done := 0
	for _, r := range append(has, part{hostRange{end, end}, absent}) {
		lo, hi := int(max(r.start, at)-at), int(min(r.end, end)-at)
		if n, err := vmRead(m.pid, b[done:lo], at+uint64(done)); err != nil { // isn't mapped
			return done + n, err
		}
		n := hi - lo
		switch {
		case r.kind == own:
			n, err = vmRead(m.pid, b[lo:hi], at+uint64(lo))
		case r.kind == absent && p.file != nil:
			n, err = readFile(p.file, b[lo:hi], p.fileOff+int64(off)+int64(lo))
		default:
			clear(b[lo:hi])
		}
		if err != nil {
			return lo + n, err
		}
		done = hi
	}
	return done, nil
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

// maxRuns bounds the populated runs of a piece of memory, in the process and in its
// file; where there would be more, the smallest holes count as populated.
const maxRuns = 1 << 22

// populated returns the pages of p that can hold anything but zeros.
func (m *Memory) populated(ctx context.Context, p piece) (runs []phys.Run, known bool, err error) {
	if p.private && m.pagemap == nil {
		return nil, false, nil
	}
	if p.private {
		var size uint64
		set := phys.RunBuilder{Most: maxRuns}
		mapped, err := eachPart(ctx, m.pagemap, hostRange{p.hva, p.hva + p.run.Size()}, func(r part) {
			if size += r.end - r.start; r.kind == own {
				for _, run := range p.pages(r.start-p.hva, r.end-p.hva) {
					set.Add(run)
				}
			}
		})
		if err != nil {
			return nil, false, err
		}
		runs = append(runs, set.Runs()...)
		if mapped && size != p.run.Size() {
			return nil, false, fmt.Errorf("only %#x bytes of %#x are mapped by now: %w", size, p.run.Size(), unix.EFAULT)
		}
	}
	if p.file != nil {
		set := phys.RunBuilder{Most: maxRuns}
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
