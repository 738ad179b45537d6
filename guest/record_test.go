package guest

import (
	"errors"
	"testing"
)

func TestRecordBounds(t *testing.T) {
	b := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, tt := range []struct {
		name string
		get  func(r *record) uint64
		want uint64
		ok   bool
	}{
		{"u8 at the end", func(r *record) uint64 { return uint64(r.u8(8)) }, 9, true},
		{"u8 past the end", func(r *record) uint64 { return uint64(r.u8(9)) }, 0, false},
		{"u16 at the end", func(r *record) uint64 { return uint64(r.u16(7)) }, 0x0908, true},
		{"u16 over the end", func(r *record) uint64 { return uint64(r.u16(8)) }, 0, false},
		{"u32 at the end", func(r *record) uint64 { return uint64(r.u32(5)) }, 0x0908_0706, true},
		{"u32 over the end", func(r *record) uint64 { return uint64(r.u32(6)) }, 0, false},
		{"u64 at the end", func(r *record) uint64 { return r.u64(1) }, 0x0908_0706_0504_0302, true},
		{"u64 over the end", func(r *record) uint64 { return r.u64(2) }, 0, false},
		{"negative offset", func(r *record) uint64 { return r.u64(-1) }, 0, false},
		{"offset that wraps", func(r *record) uint64 { return r.u64(int(^uint(0) >> 1)) }, 0, false},
		{"negative length", func(r *record) uint64 { return uint64(len(r.bytes(0, -1))) }, 0, false},
	} {
		r := &record{what: "record", b: b}
		if got := tt.get(r); got != tt.want || (r.err == nil) != tt.ok {
			t.Errorf("%s = %#x, error %v; want %#x, no error: %v", tt.name, got, r.err, tt.want, tt.ok)
		}
		if !tt.ok && (!errors.Is(r.err, ErrMalformed) || r.u8(0) != 0) {
			t.Errorf("%s: after error %v, u8(0) = %d; want ErrMalformed and 0", tt.name, r.err, r.u8(0))
		}
	}
}
