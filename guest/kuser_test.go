package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// sharedPage is a KUSER_SHARED_DATA of Windows 10 22H2.
func sharedPage() []byte {
	b := make([]byte, phys.PageSize)
	le := binary.LittleEndian
	le.PutUint32(b[0x08:], 0x1111_1111)
	le.PutUint32(b[0x0C:], 0x22)
	le.PutUint32(b[0x10:], 0x22)
	le.PutUint32(b[0x14:], 0x3333_3333)
	le.PutUint32(b[0x18:], 0x01DB_0044)
	le.PutUint32(b[0x1C:], 0x01DB_0044)
	le.PutUint16(b[0x2C:], 0x8664)
	le.PutUint16(b[0x2E:], 0x8664)
	for i, u := range utf16.Encode([]rune(`C:\Windows`)) {
		le.PutUint16(b[0x30+2*i:], u)
	}
	le.PutUint32(b[0x260:], 19045)
	le.PutUint32(b[0x264:], 1)
	le.PutUint32(b[0x26C:], 10)
	le.PutUint32(b[0x2C4:], 0xD)
	le.PutUint32(b[0x2D0:], 0x110)
	le.PutUint32(b[0x2E8:], 0x7F000)
	le.PutUint32(b[0x3C0:], 4)
	b[0x2D4] = 1
	return b
}

func TestReadKUSER(t *testing.T) {
	got, err := ReadKUSER(t.Context(), flatMemory{KUSERAddress, sharedPage()})
	want := KUSER{
		InterruptTime: 0x22_1111_1111, SystemTime: 0x01DB_0044_3333_3333, ImageNumberLow: 0x8664,
		NtSystemRoot: `C:\Windows`, NtBuildNumber: 19045, NtProductType: 1, NtMajorVersion: 10,
		BootID: 0xD, SuiteMask: 0x110, KdDebuggerEnabled: 1, NumberOfPhysicalPages: 0x7F000, ActiveProcessorCount: 4,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("ReadKUSER: %v (-want +got):\n%s", err, diff)
	}
}

func TestReadKUSERRefuses(t *testing.T) {
	for name, edit := range map[string]func(b []byte){
		"zeros":               func(b []byte) { clear(b) },
		"ARM64":               func(b []byte) { binary.LittleEndian.PutUint16(b[0x2C:], 0xAA64) },
		"version 4":           func(b []byte) { b[0x26C] = 4 },
		"version 32":          func(b []byte) { b[0x26C] = 32 },
		"minor version":       func(b []byte) { b[0x270] = 77 },
		"product type 0":      func(b []byte) { b[0x264] = 0 },
		"product type 4":      func(b []byte) { b[0x264] = 4 },
		"no drive":            func(b []byte) { b[0x30] = '1' },
		"no colon":            func(b []byte) { b[0x32] = '/' },
		"times never settle":  func(b []byte) { b[0x0C]++ },
		"times never settle2": func(b []byte) { b[0x1C]++ },
	} {
		b := sharedPage()
		edit(b)
		if got, err := ReadKUSER(t.Context(), flatMemory{KUSERAddress, b}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: ReadKUSER = %+v, %v; want ErrMalformed", name, got, err)
		}
	}
}

// tickingMemory is a KSYSTEM_TIME whose writer is at work: it does one step,
// in the kernel's order, after each read.
type tickingMemory struct {
	b     []byte
	steps []func(b []byte)
}

func (m *tickingMemory) ReadVirt(_ context.Context, p []byte, at phys.VirtAddr) error {
	copy(p, m.b[at:])
	if len(m.steps) > 0 {
		m.steps[0](m.b)
		m.steps = m.steps[1:]
	}
	return nil
}

func TestReadTimeWhileItChanges(t *testing.T) {
	const before, after = 0x0000_0005_FFFF_FFFF, 0x0000_0006_0000_0007
	write := []func(b []byte){
		func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 6) }, // High2Time
		func(b []byte) { binary.LittleEndian.PutUint32(b[0:], 7) }, // LowPart
		func(b []byte) { binary.LittleEndian.PutUint32(b[4:], 6) }, // High1Time
	}
	nothing := func([]byte) {}
	// The three writes in all ways between the three reads of the first try.
	for a := range 5 {
		for b := a; b < 5; b++ {
			for c := b; c < 5; c++ {
				var steps []func([]byte)
				for i := range 5 {
					do := []func([]byte){nothing}
					for j, when := range []int{a, b, c} {
						if when == i {
							do = append(do, write[j])
						}
					}
					steps = append(steps, func(b []byte) {
						for _, f := range do {
							f(b)
						}
					})
				}
				m := &tickingMemory{b: make([]byte, 12), steps: steps}
				binary.LittleEndian.PutUint32(m.b[0:], before&0xFFFF_FFFF)
				binary.LittleEndian.PutUint32(m.b[4:], before>>32)
				binary.LittleEndian.PutUint32(m.b[8:], before>>32)
				got, err := readTime(t.Context(), m, "time", 0)
				if err != nil || got != before && got != after {
					t.Errorf("writes after reads %d, %d and %d: readTime = %#x, %v; want %#x or %#x",
						a, b, c, got, err, uint64(before), uint64(after))
				}
			}
		}
	}
}
