package boot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"snap/internal/ntlab"
	"snap/phys"
)

// generation returns a table's entries as Advert describes them.
func generation(a Advert, n uint64) []byte {
	var b []byte
	for i := range a.Size(n) / 0x20 {
		e := a.Entry(n, i)
		b = append(b, e[:]...)
	}
	return b
}

func TestAdvertEntry(t *testing.T) {
	a := Advert{Entries: 6, Pages: 0xFFFF_A000_1234_0000}
	for _, tt := range []struct {
		generation uint64
		index      int
		want       string
	}{
		{4, 1, "0400000000000000" + "01000000" + "00000000" + "0010341200a0ffff" + "0100000000000000"},
		{0x105, 2, "0501000000000000" + "01000000" + "00000000" + "0080341200a0ffff" + "0100000000000000"},
	} {
		if got := a.Entry(tt.generation, tt.index); hex.EncodeToString(got[:]) != tt.want {
			t.Errorf("Entry(%d, %d) = %x; want %s", tt.generation, tt.index, got, tt.want)
		}
	}
	if even, odd := a.Size(4), a.Size(5); even != 6*0x20 || odd != 3*0x20 {
		t.Errorf("Size = %#x and %#x; want those of 6 and of 3 entries", even, odd)
	}
}

// TestAdvertCheck tears tables in every place.
func TestAdvertCheck(t *testing.T) {
	a := Advert{Entries: 8, Pages: 0xFFFF_A000_1234_0000}
	for _, n := range []uint64{0, 1, 6, 7, 1<<32 + 1} {
		whole := generation(a, n)
		if got, err := a.Check(whole); got != n || err != nil {
			t.Errorf("Check(generation %d) = %d, %v; want it whole", n, got, err)
		}
		torn := [][]byte{nil, whole[:len(whole)-0x20], append(bytes.Clone(whole), generation(a, n+1)[:0x20]...)}
		for _, m := range []uint64{n + 1, n + 2, n - 1, n - 2} {
			other := generation(a, m)
			for cut := 8; cut < min(len(whole), len(other)); cut += 8 {
				mixed := slices.Concat(other[:cut], whole[cut:])
				if !bytes.Equal(mixed, whole) && !bytes.Equal(mixed, other) {
					torn = append(torn, mixed)
				}
			}
		}
		if len(torn) < 20 {
			t.Fatalf("only %d torn tables", len(torn))
		}
		for _, b := range torn {
			if got, err := a.Check(b); !errors.Is(err, ErrTorn) {
				t.Errorf("Check(%x) = %d, %v; want ErrTorn", b, got, err)
			}
		}
	}
}

func TestAdvertRefused(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 5, Memory: 128 << 20})
	if err != nil {
		t.Fatal(err)
	}
	made, err := im.Advertise("changing.sys", &ntlab.Advert{Capacity: 8})
	if err != nil {
		t.Fatal(err)
	}
	good := Advert{Table: made.Symbol, Entries: 8, CPU: 3}
	for name, edit := range map[string]func(*Advert){
		"no entries":             func(a *Advert) { a.Entries = 0 },
		"odd number":             func(a *Advert) { a.Entries = 7 },
		"more than fit":          func(a *Advert) { a.Entries = 10 },
		"far too many":           func(a *Advert) { a.Entries = 1 << 20 },
		"no such processor":      func(a *Advert) { a.CPU = 4 },
		"table in code":          func(a *Advert) { a.Table = im.Truth.KernelBase },
		"table that's not there": func(a *Advert) { a.Table = 0xFFFF_8000_0000_0000 },
	} {
		a := good
		edit(&a)
		if _, err := Prepare(im, Options{Advert: &a}); err == nil {
			t.Errorf("Prepare(%s) = nil; want an error", name)
		}
	}
	p, err := Prepare(im, Options{Advert: &good})
	if err != nil {
		t.Fatal(err)
	}
	// The processor's block says so, and no other's.
	blocks := 0
	for _, b := range im.Pages() {
		if le.Uint64(b[96:]) == uint64(made.Symbol) {
			blocks++
			if le.Uint64(b[8:]) != 3 || le.Uint64(b[104:]) != 8 || le.Uint64(b[112:]) != uint64(good.Pages) {
				t.Errorf("run block = %x", b[:phys.PageSize/16])
			}
		}
	}
	if blocks != 1 || *p.Info.Advert != good {
		t.Errorf("%d processors change the table; want 1", blocks)
	}
}
