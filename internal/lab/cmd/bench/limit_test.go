package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"snap/dump"
	"snap/header"
	"snap/phys"
)

// words is memory that compresses as text does.
type words struct{}

func (words) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for i := 0; i < len(p); i += 8 {
		x := (uint64(at) + uint64(i)) * 0x9E3779B97F4A7C15
		copy(p[i:], []string{"pool-tag", "handle, ", "process ", "of which"}[x>>62])
		binary.LittleEndian.PutUint16(p[i:], uint16(x>>40))
	}
	return nil
}

// TestLimitCompresses: what the limit is measured with makes the very frames that a
// dump has.
func TestLimitCompresses(t *testing.T) {
	t.Parallel()
	runs := []phys.Run{{Base: 0x100, Pages: 0x180}}
	_, head, err := header.Make(&header.Facts{
		Machine:             phys.Know(header.MachineAMD64, "test"),
		NtBuildNumber:       phys.Know[uint32](0xF000_4A61, "test"),
		DirectoryTableBase:  phys.Know[phys.Addr](0x1A_D000, "test"),
		PsLoadedModuleList:  phys.Know[phys.VirtAddr](0xFFFF_F804_7C62_A390, "test"),
		PsActiveProcessHead: phys.Know[phys.VirtAddr](0xFFFF_F804_7C61_E200, "test"),
		KdDebuggerDataBlock: phys.Know[phys.VirtAddr](0xFFFF_F804_7C60_0B20, "test"),
		NumberProcessors:    phys.Know[uint32](4, "test"),
		Runs:                phys.Know(runs, "test"),
		BugCheckCode:        phys.Know(header.BugCheckLiveSystemDump, header.FromNotCrashed),
	}, header.DumpTypeFull)
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	for _, level := range []dump.Level{dump.LevelFastest, dump.LevelDefault} {
		encoders, err := newEncoders(string(level))
		if err != nil {
			t.Fatal(err)
		}
		frames := 0
		o := dump.Options{Level: level, Frame: func(stored []byte, _ uint64) {
			frames++
			plain, err := decoder.DecodeAll(stored, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := encoders[0].EncodeAll(plain, nil); !bytes.Equal(got, stored) {
				t.Errorf("level %s: a frame of %d bytes becomes %d bytes; in the dump it has %d", level, len(plain), len(got), len(stored))
			}
		}}
		if _, err := dump.Write(t.Context(), io.Discard, words{}, &dump.Plan{Header: head, Runs: runs}, o); err != nil {
			t.Fatal(err)
		}
		if frames < 2 {
			t.Errorf("level %s: the dump has %d frames; want at least 2", level, frames)
		}
	}
	if _, err := newEncoders("turbo?"); err == nil {
		t.Error("a level that there isn't has encoders")
	}
}

// TestInParts: each part is done once.
func TestInParts(t *testing.T) {
	t.Parallel()
	var done [1000]atomic.Int32
	if err := inParts(len(done), func(_, i int) error { done[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range done {
		if n := done[i].Load(); n != 1 {
			t.Fatalf("part %d was done %d times; want once", i, n)
		}
	}
}
