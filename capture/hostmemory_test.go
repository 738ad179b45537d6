package capture

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkHostMemory gets memory for a copy, copies into it and gives it back: with
// huge pages, which is what snap asks for, and without. What counts is the least time
// of the processor: all else is the host's, for pages that it had not used yet.
func BenchmarkHostMemory(b *testing.B) {
	const size = 256 << 20
	source, err := newHostMemory(size)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = source.free() }() // there is nothing in it
	if err := source.populate(); err != nil {
		b.Fatal(err)
	}
	for _, huge := range []bool{true, false} {
		name := map[bool]string{true: "huge", false: "small"}[huge]
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			got, copied, freed := int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64)
			for b.Loop() {
				m, err := newReservation(size)
				if err != nil {
					b.Fatal(err)
				}
				if !huge {
					if err := unix.Madvise(m.memory, unix.MADV_NOHUGEPAGE); err != nil {
						b.Fatal(err)
					}
				}
				got = min(got, processorTime(b, func() { err = m.fault(b.Context(), size, 2) }))
				if err != nil {
					b.Fatal(err)
				}
				copied = min(copied, processorTime(b, func() { copy(m.memory, source) }))
				freed = min(freed, processorTime(b, func() { err = m.free() }))
				if err != nil {
					b.Fatal(err)
				}
			}
			for what, ns := range map[string]int64{"get": got, "copy": copied, "free": freed} {
				b.ReportMetric(float64(ns)/size*(1<<30)/1e6, what+"-cpu-ms/GiB")
			}
		})
	}
}

// processorTime returns how many nanoseconds of the processors do takes.
func processorTime(tb testing.TB, do func()) int64 {
	tb.Helper()
	var before, after unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &before)
	do()
	if err == nil {
		err = unix.Getrusage(unix.RUSAGE_SELF, &after)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
}
