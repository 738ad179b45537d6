package filetest

import (
	"testing"

	"snap/phys"
)

// TestStores: each way to store a page makes one that ends in zeros shorter. If it
// didn't, the page would stand in the file as it is, and no reader would be tried.
func TestStores(t *testing.T) {
	page := make([]byte, phys.PageSize)
	copy(page, "a page of memory")
	for name, store := range map[string]Store{"zlib": StoreZlib, "lzo": StoreLZO, "snappy": StoreSnappy, "zstd": StoreZstd} {
		if b, _ := store(0, page); len(b) == 0 || len(b) > phys.PageSize/8 {
			t.Errorf("%s stores a page as %d bytes; want few", name, len(b))
		}
	}
}
