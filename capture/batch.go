package capture

import (
	"context"

	"snap/hv"
	"snap/phys"
)

// batchOver is a row of reads of a memory that lies over another one.
type batchOver struct {
	hv.Batch // of the memory below

	// read is ReadPhys of the upper memory, with what reads the one below.
	read func(ctx context.Context, below phys.Reader, p []byte, at phys.Addr) error
}

// ReadPhys implements phys.Reader.
func (b batchOver) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return b.read(ctx, b.Batch, p, at)
}
