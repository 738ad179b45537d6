package capture_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"snap/capture"
	"snap/hv/connect"
	"snap/store"
)

// A dump of a built-in guest, whole and verified.
func Example() {
	ctx := context.Background()
	conn, err := connect.Open(ctx, "lab:///")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	vm, err := conn.Lookup(ctx, "win10-22h2")
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Close()

	dir, err := os.MkdirTemp("", "dumps-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	place, name, err := store.Open(filepath.Join(dir, "out.dmp.zst"), store.Options{})
	if err != nil {
		log.Fatal(err)
	}
	res, err := capture.Take(ctx, vm, place, name, capture.Options{
		MaxPause:   time.Minute,
		MemoryCopy: 1 << 30,
		Manifest:   true, // as out.dmp.zst.json
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Mode, "of", res.Manifest.Guest.Windows)
	fmt.Println("one point in time:", res.Consistent())
	fmt.Println("verified:", res.Manifest.Verify.OK, "degraded:", res.Degraded)
	// Output:
	// pause of Windows 10.0.19045
	// one point in time: true
	// verified: true degraded: false
}

// The steps one by one: what each mode would take, and then only an analysis of
// the guest while it runs.
func ExampleSession() {
	ctx := context.Background()
	conn, err := connect.Open(ctx, "lab:///")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	vm, err := conn.Lookup(ctx, "ws2003sp1-x64")
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Close()
	s, err := capture.Open(ctx, vm, capture.Options{MaxPause: time.Hour, MemoryCopy: 1 << 30})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	estimates, err := s.Estimates(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range estimates {
		fmt.Println(e.Mode, "copy first:", e.Copied, "fits:", e.Reject(s.Options.MaxPause) == nil)
	}
	fmt.Println(len(s.Analysis.System.Processors), "processors,", len(s.Analysis.Plan.Runs), "runs of memory")
	// Output:
	// pause copy first: true fits: true
	// pause copy first: false fits: true
	// snapshot copy first: false fits: false
	// live copy first: true fits: true
	// 4 processors, 2 runs of memory
}
