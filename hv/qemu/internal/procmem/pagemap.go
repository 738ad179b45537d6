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

// pages says which pages of a page table are looked for.
type pages bool

const (
	// ownPages are what the process has at an address in place of what the mapping
	// would show there: in its memory or swapped out, the kernel's page of zeros
	// included. Pages of a file that it only looked at may be among them.
	ownPages pages = false
	// filledPages are those without the kernel's page of zeros, where that can be
	// told from others: all that may hold anything but zeros.
	filledPages pages = true
)

// present returns the parts of r that hold such pages.
func present(ctx context.Context, pagemap *os.File, r hostRange, which pages) ([]hostRange, error) {
	out, err := scan(ctx, pagemap, r, which)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return entries(ctx, pagemap, r) // Linux before 6.7
	}
	return out, err
}

// scanner is what the kernel reads and writes while it scans.
type scanner struct {
	arg     scanArg
	regions [scanRegions]scanRegion
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

func scan(ctx context.Context, pagemap *os.File, r hostRange, which pages) ([]hostRange, error) {
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	// The kernel gets an address as a number, which Go wouldn't change along with
	// the memory's: it has to stay where it is.
	var pin runtime.Pinner
	pin.Pin(s)
	defer pin.Unpin()
	s.arg = scanArg{
		size: scanArgBytes, end: r.end, vec: uint64(uintptr(unsafe.Pointer(&s.regions[0]))), vecLen: scanRegions,
		anyOf: pagePresent | pageSwapped, returns: pagePresent | pageSwapped,
	}
	if which == filledPages {
		s.arg.inverted, s.arg.mask = pagePFNZero, pagePFNZero
	}
	var out []hostRange
	for at := r.start; at < r.end; at = s.arg.walkEnd {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.arg.start, s.arg.walkEnd = at, 0
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&s.arg)))
		if errno != 0 {
			return nil, fmt.Errorf("scan page table at %#x: %w", at, errno)
		}
		if n > scanRegions || s.arg.walkEnd <= at {
			return nil, fmt.Errorf("scan page table at %#x: kernel stopped at %#x", at, s.arg.walkEnd)
		}
		for _, g := range s.regions[:n] {
			out = join(out, hostRange{g.start, g.end})
		}
	}
	return out, nil
}

// entries reads the page table entry by entry. The page of zeros can't be told
// from others there.
func entries(ctx context.Context, pagemap *os.File, r hostRange) ([]hostRange, error) {
	var out []hostRange
	page := uint64(os.Getpagesize())
	buf := make([]byte, 1<<17)
	for at := r.start; at < r.end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b := buf[:min(uint64(len(buf)), (r.end-at)/page*pagemapEntry)]
		if _, err := pagemap.ReadAt(b, int64(at/page*pagemapEntry)); err != nil {
			return nil, fmt.Errorf("read page table at %#x: %w", at, err)
		}
		for ; len(b) > 0; b = b[pagemapEntry:] {
			if binary.NativeEndian.Uint64(b)&(pagemapPresent|pagemapSwapped) != 0 {
				out = join(out, hostRange{at, at + page})
			}
			at += page
		}
	}
	return out, nil
}

// join appends r to rs, or lets the last of rs grow.
func join(rs []hostRange, r hostRange) []hostRange {
	if n := len(rs); n > 0 && rs[n-1].end == r.start {
		rs[n-1].end = r.end
		return rs
	}
	return append(rs, r)
}
