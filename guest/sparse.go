package guest

import (
	"context"

	"snap/phys"
)

// scanChunk is how much memory a scan reads at once.
const scanChunk = 1 << 20

// readSparse fills p with the memory at at, and with zeros where no page can
// be read. It returns how many pages could. The only errors are those of the
// context: any other is a page that isn't there for this purpose.
func readSparse(ctx context.Context, mem VirtReader, p []byte, at phys.VirtAddr) (pages int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if mem.ReadVirt(ctx, p, at) == nil {
		return (len(p) + phys.PageSize - 1) / phys.PageSize, nil
	}
	for len(p) > 0 {
		n := min(len(p), int(phys.PageSize-at.Offset()))
		if err := mem.ReadVirt(ctx, p[:n], at); err != nil {
			if ctx.Err() != nil {
				return pages, ctx.Err()
			}
			n = int(min(uint64(len(p)), missing(err, at)))
			clear(p[:n])
		} else {
			pages++
		}
		p = p[n:]
		at += phys.VirtAddr(n)
	}
	return pages, nil
}

// eachChunk reads area in chunks of at most scanChunk bytes and calls visit
// with each until it returns false. A chunk that can't be read is passed over.
func eachChunk(ctx context.Context, mem phys.Reader, area phys.Runs, visit func(chunk []byte, at phys.Addr) bool) error {
	buf := make([]byte, scanChunk)
	for _, r := range area {
		for at, end := r.Base.Addr(), r.End().Addr(); at < end; {
			chunk := buf[:min(uint64(end-at), scanChunk)]
			if err := mem.ReadPhys(ctx, chunk, at); err == nil {
				if !visit(chunk, at) {
					return nil
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			at += phys.Addr(len(chunk))
		}
	}
	return nil
}
