package procmem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// span of host addresses, page-aligned.
type hostRange struct{ start, end uint64 }

// Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapPresent = 1 << 63
	pagemapSwapped = 1 << 62
	pagemapEntry   = 8 // bytes
)

// The PAGEMAP_SCAN request and its page categories (include/uapi/linux/fs.h,
// Linux 6.7).
const (
	pagemapScan  = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pagePresent  = 1 << 3
	pageSwapped  = 1 << 4
	pagePFNZero  = 1 << 5
	scanRegions  = 512
	scanArgBytes = 96
)

// scanArg is struct pm_scan_arg.
type scanArg struct {
	size, flags           uint64
	start, end, walkEnd   uint64
	vec, vecLen, maxPages uint64
	inverted, mask        uint64
	anyOf, returns        uint64
}

// scanRegion is struct page_region.
type scanRegion struct{ start, end, categories uint64 }

var _ [scanArgBytes]byte = [unsafe.Sizeof(scanArg{})]byte{}

// kind says what a process has at an address of a private mapping.
type kind int

const (
	absent kind = iota // nothing: what the mapping shows there, zeros or a file's
	zeros              // the kernel's page of zeros, where that can be told from others
	own                // a page, in its memory or swapped out; of a file it may be one that was only looked at
)

// part is a range of a process's memory that is of one kind.
type part struct {
	hostRange
	kind kind
}

// eachPart calls use with what a process has in r, ascending. mapped says that what
// isn't among that isn't mapped; else nobody knows, as in Linux before 6.7.
func eachPart(ctx context.Context, pagemap *os.File, r hostRange, use func(part)) (mapped bool, err error) {
	err = scan(ctx, pagemap, r, use)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) { // of the first call
		return false, entries(ctx, pagemap, r, use)
	}
	return true, err
}

// scanner is what the kernel reads and writes while it scans.
type scanner struct {
	arg     scanArg
	regions [scanRegions]scanRegion
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// scan asks for all pages, whatever they are: what is mapped and has no page is among
// the answers, and what isn't mapped is not (pagemap_scan_pte_hole, Linux
// fs/proc/task_mmu.c).
func scan(ctx context.Context, pagemap *os.File, r hostRange, use func(part)) error {
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	// The kernel gets an address as a number, which Go wouldn't change along with
	// the memory's: it has to stay where it is.
	var pin runtime.Pinner
	pin.Pin(s)
	defer pin.Unpin()
	s.arg = scanArg{
		size: scanArgBytes, end: r.end, vec: uint64(uintptr(unsafe.Pointer(&s.regions[0]))), vecLen: scanRegions,
		returns: pagePresent | pageSwapped | pagePFNZero,
	}
	parts := joiner{use: use}
	for at := r.start; at < r.end; at = s.arg.walkEnd {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.arg.start, s.arg.walkEnd = at, 0
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&s.arg)))
		if errno != 0 {
			return fmt.Errorf("scan page table at %#x: %w", at, errno)
		}
		if n > scanRegions || s.arg.walkEnd <= at {
			return fmt.Errorf("scan page table at %#x: kernel stopped at %#x", at, s.arg.walkEnd)
		}
		for _, g := range s.regions[:n] {
			parts.add(part{hostRange{g.start, g.end}, g.kind()})
		}
	}
	parts.end()
	return nil
}

func (g scanRegion) kind() kind {
	switch {
	case g.categories&pagePFNZero != 0:
		return zeros
	case g.categories&(pagePresent|pageSwapped) != 0:
		return own
	}
	return absent
}

// entries reads the page table entry by entry. The page of zeros can't be told
// from others there.
func entries(ctx context.Context, pagemap *os.File, r hostRange, use func(part)) error {
	parts := joiner{use: use}
	page := uint64(os.Getpagesize())
	buf := make([]byte, 1<<17)
	for at := r.start; at < r.end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(uint64(len(buf)), (r.end-at)/page*pagemapEntry)]
		if _, err := pagemap.ReadAt(b, int64(at/page*pagemapEntry)); err != nil {
			return fmt.Errorf("read page table at %#x: %w", at, err)
		}
		for ; len(b) > 0; b = b[pagemapEntry:] {
			k := absent
			if binary.NativeEndian.Uint64(b)&(pagemapPresent|pagemapSwapped) != 0 {
				k = own
			}
			parts.add(part{hostRange{at, at + page}, k})
			at += page
		}
	}
	parts.end()
	return nil
}

// joiner makes neighbours of one kind one part.
type joiner struct {
	use  func(part)
	last part // empty before the first
}

func (j *joiner) add(p part) {
	if j.last.end == p.start && j.last.kind == p.kind {
		j.last.end = p.end
		return
	}
	j.end()
	j.last = p
}

// end is called when all are added.
func (j *joiner) end() {
	if j.last.start < j.last.end {
		j.use(j.last)
	}
}
