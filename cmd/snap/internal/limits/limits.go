// Package limits bounds what snap itself takes from the host.
package limits

import (
	"runtime"
	"runtime/debug"
)

// CPUs lets the process run on at most n processors at a time until it is called
// again, on all that it may use if n is 0, and returns the number in effect.
func CPUs(n int) int {
	runtime.SetDefaultGOMAXPROCS()
	if all := runtime.GOMAXPROCS(0); n > 0 && n < all {
		runtime.GOMAXPROCS(n)
	}
	return runtime.GOMAXPROCS(0)
}

// Memory makes the garbage collector work harder as the heap nears size bytes.
func Memory(size uint64) {
	debug.SetMemoryLimit(int64(min(size, 1<<62)))
}
