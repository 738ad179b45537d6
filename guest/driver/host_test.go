package driver

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// advert is an entry as a host sees it.
type advert struct {
	Context, Address, Count uint64
	Flags, Code             uint32
}

// hostView reads what is advertised from the memory at base, whose first bytes
// are the symbol SnapRemovePages, by the published layout of x64 tables. It
// fails where a host could not trust what it reads.
func hostView(memory []byte, base uint64) ([]advert, error) {
	le := binary.LittleEndian
	var all []advert
	for at, n := base, 0; at != 0; n++ {
		if n == 64 {
			return nil, fmt.Errorf("the chain doesn't end")
		}
		if at < base || at%8 != 0 || at-base > uint64(len(memory))-0x20 {
			return nil, fmt.Errorf("table at %#x is outside of the symbol at %#x, or not aligned", at, base)
		}
		table := memory[at-base:]
		count, capacity := le.Uint32(table[0x14:]), le.Uint32(table[0x0c:])
		switch {
		case string(table[:8]) != "SNAPRMPG":
			return nil, fmt.Errorf("table at %#x has magic %q", at, table[:8])
		case le.Uint16(table[0x08:]) != 1 || le.Uint16(table[0x0a:]) != 0x20:
			return nil, fmt.Errorf("table at %#x has version %#x, entry size %#x", at, table[0x08:0x0a], table[0x0a:0x0c])
		case le.Uint32(table[0x10:])%2 != 0:
			return nil, fmt.Errorf("table at %#x is being changed", at)
		case count > capacity || uint64(count)*0x20 > uint64(len(table)-0x20):
			return nil, fmt.Errorf("table at %#x has %d entries of %d", at, count, capacity)
		}
		for e := range count {
			b := table[0x20+0x20*e:]
			all = append(all, advert{
				Context: le.Uint64(b), Flags: le.Uint32(b[0x08:]), Code: le.Uint32(b[0x0c:]),
				Address: le.Uint64(b[0x10:]), Count: le.Uint64(b[0x18:]),
			})
		}
		at = le.Uint64(table[0x18:])
	}
	return all, nil
}

func TestHostViewRefuses(t *testing.T) {
	table := func(edit func(b []byte)) []byte {
		b := append([]byte("SNAPRMPG\x01\x00\x20\x00\x02\x00\x00\x00"), make([]byte, 0x10+2*0x20)...)
		edit(b)
		return b
	}
	if _, err := hostView(table(func([]byte) {}), 0x1000); err != nil {
		t.Fatalf("hostView(an empty table) failed: %v", err)
	}
	for name, edit := range map[string]func(b []byte){
		"odd sequence":     func(b []byte) { b[0x10] = 1 },
		"too many entries": func(b []byte) { b[0x14] = 3 },
		"loop":             func(b []byte) { b[0x19] = 0x10 },
		"magic":            func(b []byte) { b[0] = 's' },
		"entry size":       func(b []byte) { b[0x0a] = 0x14 },
	} {
		if got, err := hostView(table(edit), 0x1000); err == nil {
			t.Errorf("%s: hostView = %v; want an error", name, got)
		}
	}
}
