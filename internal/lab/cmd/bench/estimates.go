package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"snap/internal/lab"
)

// holdEstimates takes dumps in mode pause and prints each estimate beside the pause.
func (b *bench) holdEstimates(ctx context.Context) (err error) {
	mib := b.sizes[0] << 10
	down, err := b.up(ctx, lab.Spec{MemoryMiB: mib, FillMiB: mib / 4 * 3})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	fmt.Println("| dump | load | tasks ready | estimate: likely | most | confidence | pause | pause / likely | pause / most |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	var above, over int
	for i := range b.holds {
		text, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			return err
		}
		load := strings.Fields(string(text))
		_, s, err := b.dumpOnce(ctx, b.program, "--mode", "pause")
		if err != nil {
			return err
		}
		ready, _, _ := strings.Cut(load[3], "/")
		fmt.Printf("| %d | %s | %s | %.1f | %.1f | %s | %.1f | %.2f | %.2f |\n", i+1, load[0], ready,
			s.EstimateMS, s.MostMS, s.Confidence, s.PauseMS, s.PauseMS/s.EstimateMS, s.PauseMS/s.MostMS)
		if s.PauseMS > s.EstimateMS {
			above++
		}
		if s.PauseMS > s.MostMS {
			over++
		}
	}
	fmt.Printf("\nMilliseconds. Of %d pauses %d were longer than what was likely, and %d longer than the pessimistic end.\n", b.holds, above, over)
	return nil
}
