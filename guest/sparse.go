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

// maxDeadChunks is how many chunks in a row may have no page that can be read before
// the source is taken for gone: pages are then no longer tried one by one.
const maxDeadChunks = 16

// eachChunk reads area in chunks of at most scanChunk bytes and calls visit with each
// until it returns false. Of a chunk with pages that can't be read it gets what lies
// between them, in several calls.
func eachChunk(ctx context.Context, mem phys.Reader, area phys.Runs, visit func(chunk []byte, at phys.Addr) bool) error {
	buf := make([]byte, scanChunk)
	dead := phys.DeadStretch{Limit: maxDeadChunks}
	gone, going := false, true
	for _, r := range area {
		for r.Pages > 0 && going {
			run := phys.Run{Base: r.Base, Pages: min(r.Pages, scanChunk>>phys.PageShift)}
			r = phys.Run{Base: run.End(), Pages: r.Pages - run.Pages}
			var read, lost uint64
			err := phys.ReadPages(ctx, phys.Anew(mem), run, buf[:run.Size()], func(part phys.Run, b []byte) {
				read += part.Pages
				going = going && visit(b, part.Base.Addr())
			}, func(_ phys.PFN, _ []byte, err error) error {
				lost++
				if gone {
					return err
				}
				return nil
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && lost == 0 { // of the source, not of its pages
				lost = run.Pages
			}
			gone = dead.Add(read, lost)
		}
	}
	return nil
}
