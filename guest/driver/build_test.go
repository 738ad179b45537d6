package driver

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// target is a processor that drivers are built for.
type target struct {
	name, cross, entry string
	machine            uint16
	entrySize          int // of KBUGCHECK_REMOVE_PAGES
}

var targets = []target{
	{"x64", "x86_64-w64-mingw32-", "DriverEntry", pe.IMAGE_FILE_MACHINE_AMD64, 0x20},
	{"x86", "i686-w64-mingw32-", "_DriverEntry@8", pe.IMAGE_FILE_MACHINE_I386, 0x14},
}

// run runs a command that must succeed and say nothing on standard error.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, &stderr)
	}
}

// compiles reports whether the text is C that tg's compiler accepts without a
// warning, and what it says.
func compiles(t *testing.T, tg target, language, text string) (bool, string) {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.c")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tg.cross+"gcc", "-x", language, "-Wall", "-Wextra", "-Werror", "-O1",
		"-I", here, "-isystem", "/usr/"+tg.cross[:len(tg.cross)-1]+"/include/ddk", "-c", file, "-o", file+".o")
	out, err := cmd.CombinedOutput()
	return err == nil, string(out)
}

// offsets are those of the published protocol; the table's own are the same for
// all targets.
func offsets(tg target) map[string]int {
	all := map[string]int{
		"offsetof(SNAP_ADVERT_TABLE, Magic)":     0x00,
		"offsetof(SNAP_ADVERT_TABLE, Version)":   0x08,
		"offsetof(SNAP_ADVERT_TABLE, EntrySize)": 0x0a,
		"offsetof(SNAP_ADVERT_TABLE, Capacity)":  0x0c,
		"offsetof(SNAP_ADVERT_TABLE, Sequence)":  0x10,
		"offsetof(SNAP_ADVERT_TABLE, Count)":     0x14,
		"offsetof(SNAP_ADVERT_TABLE, Next)":      0x18,
		"sizeof(SNAP_ADVERT_TABLE)":              0x20,
		"sizeof(((SNAP_ADVERT_TABLE *)0)->Next)": 8,

		"offsetof(struct _SNAP_ADVERT_STORAGE, Advert.Head)": 0,
		// The entries follow each bank's table at once.
		"offsetof(struct _SNAP_ADVERT_STORAGE, Bank[0].Entries) - offsetof(struct _SNAP_ADVERT_STORAGE, Bank[0])": 0x20,
		"offsetof(struct _SNAP_ADVERT_STORAGE, Bank[0]) % 8":                                                      0,
		"offsetof(struct _SNAP_ADVERT_STORAGE, Bank[1]) % 8":                                                      0,

		"KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS":  1,
		"KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS": 2,
		// The library's name for the reason must be the kernel's number.
		"KbCallbackRemovePages": 6,
	}
	entry := map[string]int{"Context": 0x00, "Flags": 0x08, "BugCheckCode": 0x0c, "Address": 0x10, "Count": 0x18}
	if tg.entrySize == 0x14 {
		entry = map[string]int{"Context": 0x00, "Flags": 0x04, "BugCheckCode": 0x08, "Address": 0x0c, "Count": 0x10}
	}
	for field, at := range entry {
		all["offsetof(KBUGCHECK_REMOVE_PAGES, "+field+")"] = at
	}
	all["sizeof(KBUGCHECK_REMOVE_PAGES)"] = tg.entrySize
	return all
}

func TestHeaderOffsets(t *testing.T) {
	const prelude = "#include <ntddk.h>\n#include <stddef.h>\n#include \"snap_advert.h\"\nSNAP_ADVERT_DECLARE(3);\n"
	for _, tg := range targets {
		t.Run(tg.name, func(t *testing.T) {
			text := prelude
			for what, want := range offsets(tg) {
				text += fmt.Sprintf("_Static_assert((%s) == %#x, \"%s\");\n", what, want, what)
			}
			if ok, out := compiles(t, tg, "c", text); !ok {
				t.Errorf("the header doesn't keep to the protocol:\n%s", out)
			}
			// The assertions bite.
			wrong := prelude + "_Static_assert(offsetof(SNAP_ADVERT_TABLE, Next) == 0x1c, \"wrong\");\n"
			if ok, _ := compiles(t, tg, "c", wrong); ok {
				t.Error("a wrong offset compiles")
			}
		})
	}
}

// Drivers of a kit that has KBUGCHECK_REMOVE_PAGES, and drivers in C++, include
// the header as well.
func TestHeaderVariants(t *testing.T) {
	const kit = `#include <ntddk.h>
#define KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS 0x00000001UL
#define KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS 0x00000002UL
#define KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST 0x80000000UL
typedef struct _KBUGCHECK_REMOVE_PAGES {
    PVOID Context; ULONG Flags; ULONG BugCheckCode; ULONG_PTR Address; ULONG_PTR Count;
} KBUGCHECK_REMOVE_PAGES, *PKBUGCHECK_REMOVE_PAGES;
#include "snap_advert.h"
SNAP_ADVERT_DECLARE(1);
NTSTATUS Use(void) { return SnapAdvertClear(SNAP_ADVERT_OF); }
`
	// mingw-w64's own wdm.h isn't C++, so the names come from elsewhere.
	const cplusplus = `#include "testdata/kernel.h"
#include "snap_advert.h"
SNAP_ADVERT_DECLARE(1);
extern "C" NTSTATUS Use(PKBUGCHECK_REASON_CALLBACK_ROUTINE routine, PKBUGCHECK_REASON_CALLBACK_RECORD record)
{ return SnapAdvertRefresh(routine, record, SNAP_ADVERT_OF); }
`
	for _, tg := range targets {
		if ok, out := compiles(t, tg, "c", kit); !ok {
			t.Errorf("%s, with the kit's structure:\n%s", tg.name, out)
		}
		if ok, out := compiles(t, tg, "c++", cplusplus); !ok {
			t.Errorf("%s, in C++:\n%s", tg.name, out)
		}
	}
}

// builtImage is the sample driver, read from its file.
type builtImage struct {
	*pe.File
	t       *testing.T
	exports pe.DataDirectory
}

func buildSample(t *testing.T, tg target) *builtImage {
	t.Helper()
	dir := t.TempDir()
	run(t, "make", "-s", "-C", "snapadv", "CROSS="+tg.cross, "ENTRY="+tg.entry, "OUT="+dir)
	f, err := pe.Open(filepath.Join(dir, "snapadv.sys"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	img := &builtImage{File: f, t: t}
	var subsystem uint16
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader64:
		img.exports, subsystem = h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT], h.Subsystem
	case *pe.OptionalHeader32:
		img.exports, subsystem = h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_EXPORT], h.Subsystem
	}
	if f.Machine != tg.machine || subsystem != pe.IMAGE_SUBSYSTEM_NATIVE {
		t.Errorf("machine %#x, subsystem %d; want %#x, %d", f.Machine, subsystem, tg.machine, pe.IMAGE_SUBSYSTEM_NATIVE)
	}
	return img
}

// at returns n bytes of the image at an RVA, and the section they are in.
func (f *builtImage) at(rva, n uint32) ([]byte, *pe.Section) {
	f.t.Helper()
	for _, s := range f.Sections {
		if rva < s.VirtualAddress || rva-s.VirtualAddress+n > s.Size {
			continue
		}
		b := make([]byte, n)
		if _, err := s.ReadAt(b, int64(rva-s.VirtualAddress)); err != nil {
			f.t.Fatal(err)
		}
		return b, s
	}
	f.t.Fatalf("no section has %d bytes at RVA %#x", n, rva)
	return nil, nil
}

// exported returns the exported names and their RVAs (PE format, ".edata").
func (f *builtImage) exported() map[string]uint32 {
	f.t.Helper()
	dir, _ := f.at(f.exports.VirtualAddress, 40)
	le := binary.LittleEndian
	functions, names, ordinals := le.Uint32(dir[28:]), le.Uint32(dir[32:]), le.Uint32(dir[36:])
	all := map[string]uint32{}
	for i := range le.Uint32(dir[24:]) {
		name, _ := f.at(names+4*i, 4)
		ordinal, _ := f.at(ordinals+2*i, 2)
		function, _ := f.at(functions+4*uint32(le.Uint16(ordinal)), 4)
		text, _ := f.at(le.Uint32(name), uint32(len("SnapRemovePages")+1))
		all[string(bytes.TrimRight(text, "\x00"))] = le.Uint32(function)
	}
	return all
}

func TestSampleDriver(t *testing.T) {
	for _, tg := range targets {
		t.Run(tg.name, func(t *testing.T) {
			f := buildSample(t, tg)
			exports := f.exported()
			rva, ok := exports["SnapRemovePages"]
			if !ok || len(exports) != 1 || rva%8 != 0 {
				t.Fatalf("exports %v; want SnapRemovePages alone, 8-byte aligned", exports)
			}
			const capacity = 16
			bank := (0x20 + capacity*uint32(tg.entrySize) + 7) &^ 7
			table, section := f.at(rva, 0x30+2*bank)
			// The kernel keeps sections resident and writable that are not code,
			// not named PAGE or INIT, and marked for writing.
			if section.Name != ".data" || section.Characteristics&pe.IMAGE_SCN_MEM_WRITE == 0 {
				t.Errorf("the table is in section %s (%#x); want writable .data", section.Name, section.Characteristics)
			}
			head := []byte("SNAPRMPG\x01\x00")
			head = append(head, byte(tg.entrySize), 0)
			empty := func(capacity byte) []byte {
				return append(append(bytes.Clone(head), capacity, 0, 0, 0), make([]byte, 0x10)...)
			}
			want := append(empty(0), capacity, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
			for range 2 {
				b := make([]byte, bank)
				copy(b, empty(capacity))
				want = append(want, b...)
			}
			if diff := cmp.Diff(want, table); diff != "" {
				t.Errorf("initial table (-want +got):\n%s", diff)
			}
		})
	}
}
