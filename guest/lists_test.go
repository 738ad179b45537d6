package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"snap/phys"
)

// listMemory is LIST_ENTRYs by address. Each read of an entry takes the next
// of its contents; the last one stays.
type listMemory map[phys.VirtAddr][][2]phys.VirtAddr

func (m listMemory) ReadVirt(_ context.Context, p []byte, at phys.VirtAddr) error {
	e, ok := m[at]
	if !ok || len(p) != amd64.ListEntrySize() {
		return &TranslateError{At: at, Level: 1, Err: ErrNotPresent}
	}
	binary.LittleEndian.PutUint64(p, uint64(e[0][0]))
	binary.LittleEndian.PutUint64(p[8:], uint64(e[0][1]))
	if len(e) > 1 {
		m[at] = e[1:]
	}
	return nil
}

func TestWalkList(t *testing.T) {
	const h, a, b, c phys.VirtAddr = 0xFFFF_F800_0000_0000, 0xFFFF_F800_0000_1000, 0xFFFF_F800_0000_2000, 0xFFFF_F800_0000_3000
	type entry = [][2]phys.VirtAddr
	tests := []struct {
		name  string
		mem   listMemory
		limit int
		want  []phys.VirtAddr
		class error
	}{
		{"empty", listMemory{h: entry{{h, h}}}, 9, nil, nil},
		{"three", listMemory{h: entry{{a, c}}, a: entry{{b, h}}, b: entry{{c, a}}, c: entry{{h, b}}}, 3, []phys.VirtAddr{a, b, c}, nil},
		{"above the limit", listMemory{h: entry{{a, c}}, a: entry{{b, h}}, b: entry{{c, a}}, c: entry{{h, b}}}, 2, []phys.VirtAddr{a, b}, ErrMalformed},
		{"back link wrong", listMemory{h: entry{{a, c}}, a: entry{{b, h}}, b: entry{{c, h}}, c: entry{{h, b}}}, 9, []phys.VirtAddr{a}, ErrMalformed},
		{"not mapped", listMemory{h: entry{{a, c}}, a: entry{{b, h}}}, 9, []phys.VirtAddr{a}, ErrNotPresent},
		{"in user space", listMemory{h: entry{{0x1000, c}}}, 9, nil, ErrMalformed},
		{
			"a guest that relinks its list behind the walk", // without a visited set, for ever
			listMemory{h: entry{{a, b}}, a: entry{{b, h}, {b, b}}, b: entry{{a, a}}},
			1 << 30,
			[]phys.VirtAddr{a, b},
			ErrMalformed,
		},
	}
	for _, tt := range tests {
		var got []phys.VirtAddr
		err := walkList(t.Context(), tt.mem, "list", h, tt.limit, func(at phys.VirtAddr) error {
			if got = append(got, at); len(got) > 100 {
				return errors.New("the walk doesn't end")
			}
			return nil
		})
		if !errors.Is(err, tt.class) || !slices.Equal(got, tt.want) {
			t.Errorf("%s: visited %x, %v; want %x, class %v", tt.name, got, err, tt.want, tt.class)
		}
	}
}

func TestSelfMapped(t *testing.T) {
	const root phys.Addr = 0x1AD000
	for name, tt := range map[string]struct {
		entries map[int]uint64
		want    bool
	}{
		"none":               {nil, false},
		"one":                {map[int]uint64{0x1ED: 0x1AD063}, true},
		"with NX and bits":   {map[int]uint64{0x100: 1<<63 | 0x1AD863}, true},
		"two":                {map[int]uint64{0x1ED: 0x1AD063, 0x1EE: 0x1AD063}, false},
		"in the user half":   {map[int]uint64{0xFF: 0x1AD063}, false},
		"of another page":    {map[int]uint64{0x1ED: 0x1AE063}, false},
		"not present":        {map[int]uint64{0x1ED: 0x1AD062}, false},
		"read-only":          {map[int]uint64{0x1ED: 0x1AD061}, false},
		"for user mode":      {map[int]uint64{0x1ED: 0x1AD067}, false},
		"a large page":       {map[int]uint64{0x1ED: 0x1AD0E3}, false},
		"one, one of others": {map[int]uint64{0x1ED: 0x1AD063, 0x1F0: 0x2000063}, true},
	} {
		page := make([]byte, phys.PageSize)
		for i, e := range tt.entries {
			binary.LittleEndian.PutUint64(page[8*i:], e)
		}
		if got := fourLevels.selfMapped(page, root); got != tt.want {
			t.Errorf("%s: selfMapped = %v; want %v", name, got, tt.want)
		}
	}
}
