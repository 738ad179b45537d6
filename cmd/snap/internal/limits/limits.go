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

// programShare is which share of its memory, programMost at most, the process needs
// for what the garbage collector knows nothing of: above all the program itself.
const (
	programShare = 4
	programMost  = 56 << 20
)

// Memory makes the garbage collector work harder as the process nears size bytes. It
// can't take what is in use.
func Memory(size uint64) {
	size = min(size, 1<<62)
	debug.SetMemoryLimit(int64(size - min(size/programShare, programMost)))
}
