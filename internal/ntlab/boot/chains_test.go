package boot

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// flat is memory from address 0 on.
type flat []byte

func (m flat) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	if uint64(at)+uint64(len(p)) > uint64(len(m)) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	copy(p, m[at:])
	return nil
}

// chainMemory lays out chains of 64 pages in reverse order of addresses, with
// the number that number gives for each place.
func chainMemory(chains int, number func(id, index int) uint64) (flat, []Chain) {
	m := make(flat, chains*ChainPages*phys.PageSize)
	var out []Chain
	for id := range chains {
		c := Chain{ID: id}
		for i := range ChainPages {
			at := len(m) - (id*ChainPages+i+1)*phys.PageSize
			b := m[at:]
			copy(b, "SNAPCHN\x01")
			b[8], b[12], b[16] = byte(id), byte(i), ChainPages
			le.PutUint64(b[24:], number(id, i))
			c.Pages = append(c.Pages, phys.Addr(at))
		}
		out = append(out, c)
	}
	return m, out
}

func TestCheckChains(t *testing.T) {
	tests := []struct {
		name   string
		number func(id, index int) uint64
		want   Consistency
	}{
		{"between rounds", func(int, int) uint64 { return 7 }, Consistency{true, 0, []uint64{7, 7}, 0}},
		{"never run", func(int, int) uint64 { return 0 }, Consistency{true, 0, []uint64{0, 0}, 0}},
		{"in a round", func(id, i int) uint64 {
			if i < 20+id {
				return 8
			}
			return 7
		}, Consistency{true, 0, []uint64{8, 8}, 0}},
		{"a page ahead", func(_, i int) uint64 {
			if i == 30 {
				return 8
			}
			return 7
		}, Consistency{false, 0, []uint64{8, 8}, 60}},
		{"a page behind", func(id, i int) uint64 {
			if id == 1 && i == 30 {
				return 7
			}
			return 8
		}, Consistency{false, 0, []uint64{8, 8}, 1}},
		{"old pages first", func(_, i int) uint64 { return uint64(100 + i) }, Consistency{false, 62, []uint64{163, 163}, 126}},
		{"old pages last", func(_, i int) uint64 { return uint64(200 - i) }, Consistency{false, 62, []uint64{200, 200}, 124}},
		{"one step of three", func(_, i int) uint64 {
			if i < 9 {
				return 10
			}
			return 7
		}, Consistency{false, 2, []uint64{10, 10}, 110}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, chains := chainMemory(2, tt.number)
			got, err := CheckChains(t.Context(), m, chains)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("CheckChains() differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestFindChains(t *testing.T) {
	m, want := chainMemory(3, func(id, i int) uint64 { return uint64(id * i) })
	ram := phys.Runs{{Base: 0, Pages: uint64(len(m)) / phys.PageSize}}
	got, err := FindChains(t.Context(), m, ram)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("FindChains() differs (-want +got):\n%s", d)
	}
	m[want[1].Pages[5]]++
	if got, err := FindChains(t.Context(), m, ram); err == nil {
		t.Errorf("FindChains(a page of a chain overwritten) = %d chains; want an error", len(got))
	}
	if got, err := CheckChains(t.Context(), m, want); err == nil {
		t.Errorf("CheckChains(a page of a chain overwritten) = %+v; want an error", got)
	}
	if got, err := CheckChains(t.Context(), m[:phys.PageSize], want); err == nil {
		t.Errorf("CheckChains(memory cut short) = %+v; want an error", got)
	}
}
