package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"snap/dump"
	"snap/header"
	"snap/internal/lab"
	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
	"snap/manifest"
)

// keepsCrash demands of a dump what a guest that shows its blue screen left of its
// processors, each context at its place, and that of the one that crashed in the header
// (at 0x348, and the exception at 0xF00: QEMU include/qemu/win_dump_defs.h).
func keepsCrash(t *testing.T, f *dump.File, im *ntlab.Image, crash *ntlab.Crash) {
	t.Helper()
	le, h := binary.LittleEndian, f.RawHeader()
	got := [5]uint64{uint64(le.Uint32(h[0x38:]))}
	for i := 1; i < len(got); i++ {
		got[i] = le.Uint64(h[0x38+8*i:])
	}
	if got != crash.BugCheck {
		t.Errorf("the header's bug check is %#x; want %#x", got, crash.BugCheck)
	}
	want := crash.Contexts[crash.Processor]
	rip := le.Uint64(want[contextRIP:])
	if !bytes.Equal(h[0x348:0x348+len(want)], want) {
		t.Errorf("the header's context is at Rip %#x; want that of processor %d, which crashed, at %#x",
			le.Uint64(h[0x348+contextRIP:]), crash.Processor, rip)
	}
	if code, at := le.Uint32(h[0xF00:]), le.Uint64(h[0xF10:]); code != 0x80000003 || at != rip {
		t.Errorf("the header's exception is %#x at %#x; want a breakpoint at %#x", code, at, rip)
	}
	for i, want := range crash.Contexts {
		if got := readVirt(t, f, im, im.Truth.Processors[i].Context, len(want)); !bytes.Equal(got, want) {
			t.Errorf("the context of processor %d is at Rip %#x; want what the guest saved, at %#x",
				i, le.Uint64(got[contextRIP:]), le.Uint64(want[contextRIP:]))
		}
	}
}

func openDump(t *testing.T, path string) *dump.File {
	t.Helper()
	f, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestConvertCrash converts a guest that shows its blue screen, from a file that has its
// processors' registers of now and from one that has none.
func TestConvertCrash(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Memory: 64 << 20, CPUs: 3, Seed: 12, BugCheck: lab.BugCheck})
	if err != nil {
		t.Fatal(err)
	}
	g := &guestFiles{dir: t.TempDir(), im: im}
	keepsCrash(t, converted(t, g.core(t)), im, im.Truth.Crash)
	keepsCrash(t, converted(t, g.raw(t), "--raw"), im, im.Truth.Crash)
}

// TestBlueScreen has a guest show its blue screen and run on in it, and demands what it
// left of its processors of dumps in all modes and of a conversion.
func TestBlueScreen(t *testing.T) {
	t.Parallel()
	g := upGuest(t, lab.Spec{Name: "bluescreen", MemoryMiB: 128, CPUs: 3, Seed: 45})
	if err := g.Order(t.Context(), boot.OrderPanic); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := g.Qword(t.Context(), g.Boot.WentOn)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	crash := g.Image.Crash(lab.BugCheck)
	for _, mode := range []string{"pause", "live"} {
		path := filepath.Join(g.Dir(), mode+".dmp")
		runSnap(t, g.Connection, "dump", g.Name, "--mode", mode, "--compress", "none", "-o", path).want(t, exitOK)
		keepsCrash(t, openDump(t, path), g.Image, crash)
	}
	core := filepath.Join(g.Dir(), "core.elf")
	virsh(t, g.Connection, "dump", "--memory-only", g.Name, core)
	t.Cleanup(func() { _ = os.Remove(core) })
	path := filepath.Join(g.Dir(), "converted.dmp")
	runSnap(t, g.Connection, "convert", core, "--compress", "none", "-o", path).want(t, exitOK)
	keepsCrash(t, openDump(t, path), g.Image, crash)
}

// TestConvertPublished converts cores of a guest that published a dump header: the
// manifest says whether it agrees, and a warning what differs.
func TestConvertPublished(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Memory: 64 << 20, CPUs: 2, Seed: 13})
	if err != nil {
		t.Fatal(err)
	}
	g := &guestFiles{dir: t.TempDir(), im: im}
	account := func() manifest.Manifest {
		t.Helper()
		out := filepath.Join(t.TempDir(), "out.dmp")
		runOnLab(t, []int{exitOK}, "convert", g.core(t), "-q", "--compress", "none", "-o", out)
		b, err := os.ReadFile(out + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var m manifest.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := account(); m.Guest.PublishedHeader != "" {
		t.Errorf("without a note the manifest says that its header %s", m.Guest.PublishedHeader)
	}
	note, err := im.PublishedNote()
	if err != nil {
		t.Fatal(err)
	}
	if m := account(); m.Guest.PublishedHeader != manifest.PublishedAgrees || len(m.Warnings) != 0 {
		t.Errorf("the manifest says that the published header %q, warnings %q; want that it agrees", m.Guest.PublishedHeader, m.Warnings)
	}
	const prefix, processors = 24, 0x34
	note[prefix+processors] = 9
	m := account()
	if told := strings.Join(m.Warnings, "\n"); m.Guest.PublishedHeader != manifest.PublishedDiffers || !strings.Contains(told, "NumberProcessors is 0x9; found was 0x2") {
		t.Errorf("the manifest says that the published header %q, warnings %q; want that it differs", m.Guest.PublishedHeader, told)
	}
}

// TestPublishedHeader has a guest publish a dump header by QEMU's vmcoreinfo device, and
// compares QEMU's own dump for Windows field for field with the header that snap makes.
// Its core has the note, which agrees.
func TestPublishedHeader(t *testing.T) {
	t.Parallel()
	g := upGuest(t, lab.Spec{Name: "published", MemoryMiB: 128, CPUs: 2, Seed: 46, PublishHeader: true})
	theirs := filepath.Join(g.Dir(), "qemu.dmp")
	virsh(t, g.Connection, "dump", "--memory-only", "--format", "win-dmp", g.Name, theirs)
	ours := filepath.Join(g.Dir(), "snap.hdr")
	runSnap(t, g.Connection, "header", g.Name, "-o", ours).want(t, exitOK)
	read := func(path string) map[string]string {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 0x2000)
		if _, err := io.ReadFull(f, b); err != nil {
			t.Fatal(err)
		}
		h, err := header.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		fields := map[string]string{}
		for _, f := range h.Fields() {
			if f.Set && f.Kind != header.KindReserved {
				fields[f.Name] = f.Value
			}
		}
		return fields
	}
	// What QEMU has otherwise, and why (QEMU dump/win_dump.c; the FwCfg driver).
	otherwise := map[string]string{
		"PfnDataBase":         "the variable's address",
		"KdDebuggerDataBlock": "the driver's decoded copy",
		"ContextRecord":       "none",
		"ExceptionAddress":    "none",
		"SystemTime":          "when the driver started",
		"SystemUpTime":        "when the driver started",
	}
	want, got := read(theirs), read(ours)
	if len(want) < 25 {
		t.Errorf("QEMU's header has %d fields", len(want))
	}
	for name, value := range want {
		if differs := got[name] != value; differs != (otherwise[name] != "") {
			t.Errorf("%s is %s; QEMU has %s (%s)", name, got[name], value, otherwise[name])
		}
	}
	core := filepath.Join(g.Dir(), "core.elf")
	virsh(t, g.Connection, "dump", "--memory-only", g.Name, core)
	path := filepath.Join(g.Dir(), "converted.dmp")
	runSnap(t, g.Connection, "convert", core, "--compress", "none", "-o", path).want(t, exitOK)
	b, err := os.ReadFile(path + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"published_header": "agrees"`)) {
		t.Errorf("the manifest of the converted core doesn't say that the published header agrees:\n%s", b)
	}
}
