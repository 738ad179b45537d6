package procmem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
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

// present returns the parts of [start, end) that the process has touched and that
// don't map the kernel's page of zeros: in its memory, or swapped out.
func present(ctx context.Context, pagemap *os.File, r hostRange) ([]hostRange, error) {
	out, err := scan(ctx, pagemap, r)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return entries(ctx, pagemap, r) // Linux before 6.7
	}
	return out, err
}

func scan(ctx context.Context, pagemap *os.File, r hostRange) ([]hostRange, error) {
	var out []hostRange
	regions := make([]scanRegion, scanRegions)
	for at := r.start; at < r.end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		arg := scanArg{
			size: scanArgBytes, start: at, end: r.end,
			vec: uint64(uintptr(unsafe.Pointer(&regions[0]))), vecLen: scanRegions,
			inverted: pagePFNZero, mask: pagePFNZero, anyOf: pagePresent | pageSwapped, returns: pagePresent | pageSwapped,
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
		runtime.KeepAlive(regions)
		if errno != 0 {
			return nil, fmt.Errorf("scan page table at %#x: %w", at, errno)
		}
		if n > scanRegions || arg.walkEnd <= at {
			return nil, fmt.Errorf("scan page table at %#x: kernel stopped at %#x", at, arg.walkEnd)
		}
		for _, g := range regions[:n] {
			out = join(out, hostRange{g.start, g.end})
		}
		at = arg.walkEnd
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
