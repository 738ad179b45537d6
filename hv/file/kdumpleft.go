package file

import (
	"context"
	"fmt"
	"io"

	"snap/phys"
)

// levelZero is the dump level of pages of zeros (makedumpfile(8), -d). The other bits
// are kinds of pages that hold something.
const levelZero = 1

// setRAM reads the first bitmap, of the pages that the guest had; held are those in the
// file. Where only pages of zeros were left out, these are memory too. What was in
// others is lost.
func (k *kdumpFile) setRAM(ctx context.Context, r io.Reader, at int64, h kdumpHeader, held phys.Runs) error {
	had, err := readBitmap(ctx, r, at, h.maxPFN)
	if err != nil {
		return err
	}
	all := had.Union(held)
	left := all.Pages() - held.Pages()
	if left > 0 {
		k.notes = append(k.notes, leftOutNote(left, h.level))
	}
	if k.ram = all; left > 0 && h.level != levelZero {
		k.ram, k.lost = held, left
	}
	return nil
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
