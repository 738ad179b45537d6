package capture

import (
	"io"
	"testing"

	"snap/internal/ntlab"
)

// BenchmarkAdverts takes dumps of a guest that advertises to slow its dump
// down, beside the same guest without adverts.
func BenchmarkAdverts(b *testing.B) {
	attacks := append([]ntlab.AdvertAttack{{
		Name: "none",
		Edit: func(*ntlab.Image) (ntlab.AdvertOutcome, error) { return ntlab.AdvertOutcome{}, nil },
	}}, ntlab.AdvertAttacks()...)
	for _, attack := range attacks {
		b.Run(attack.Name, func(b *testing.B) {
			vm := newGuest(b, ntlab.Config{Memory: 2 << 30})
			if err := vm.im.Fill(512<<20, ntlab.Mix{Zero: 2, Text: 3, Structures: 4, Random: 1}); err != nil {
				b.Fatal(err)
			}
			outcome, err := attack.Edit(vm.im)
			if err != nil {
				b.Fatal(err)
			}
			job := job{vm: vm, Options: Options{Mode: Pause{}}}
			job.Look.Exclusion.NoAdvertised = outcome.TooMany
			b.ReportAllocs()
			for b.Loop() {
				if _, err := job.take(b.Context(), io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
