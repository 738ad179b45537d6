package file

import (
	"context"
	"fmt"
	"io"
	"math/bits"
)

// levelZero is the bit of a dump level for pages of zeros (makedumpfile(8), -d). The
// others are kinds of pages that hold something.
const levelZero = 1

// leftOut returns how many of the first n pages are in the first bitmap, of the pages
// that the guest has, and not in the second, of those that are in the file.
func leftOut(ctx context.Context, r io.ReaderAt, first, second int64, n uint64) (uint64, error) {
	has, holds := make([]byte, 64<<10), make([]byte, 64<<10)
	size := int64((n + 7) / 8)
	left := uint64(0)
	for off := int64(0); off < size; off += int64(len(has)) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		k := min(int64(len(has)), size-off)
		if err := readAt(r, has[:k], uint64(first+off)); err != nil {
			return 0, fmt.Errorf("bitmap: %w", err)
		}
		if err := readAt(r, holds[:k], uint64(second+off)); err != nil {
			return 0, fmt.Errorf("bitmap: %w", err)
		}
		if tail := n % 8; off+k == size && tail > 0 {
			has[k-1] &= 1<<tail - 1
		}
		for i := range k {
			left += uint64(bits.OnesCount8(has[i] &^ holds[i]))
		}
	}
	return left, nil
}

// leftOutNote says what is not in the file. QEMU writes the level of zeros and leaves
// none out.
func leftOutNote(n uint64, level uint32) string {
	const what = "%d pages that the guest had are not in the core: whoever wrote it left out %s (dump level %d)"
	if level == levelZero {
		return fmt.Sprintf(what, n, "pages of zeros", level)
	}
	return fmt.Sprintf(what+"; what was in them is lost", n, "kinds of pages", level)
}
