package file

import (
	"bytes"
	"fmt"
	"os"

	"snap/hv"
)

// Marks of the kdump formats (makedumpfile's IMPLEMENTATION, and QEMU's
// include/sysemu/dump.h): as it is, and flattened for a pipe.
const (
	kdumpMagic     = "KDUMP   "
	flattenedMagic = "makedumpfile"
)

// kdump is a kdump-compressed core, as `virsh dump --memory-only --format`
// writes it. It is recognised, so that it can be said what to do.
func kdump() format {
	return format{
		takes: func(head []byte, _ Options) bool {
			return bytes.HasPrefix(head, []byte(kdumpMagic)) || bytes.HasPrefix(head, []byte(flattenedMagic))
		},
		open: func(*os.File, Options) (hv.Source, error) {
			return nil, fmt.Errorf("it is a kdump-compressed core: %w; take it with `virsh dump --memory-only` without --format, or expand it",
				hv.ErrUnsupported)
		},
	}
}
