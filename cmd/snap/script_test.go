package main

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"snap/internal/ntlab"
	"snap/phys"
)

// TestMain lets scripts run the real program as the commands snap and memsnap.
func TestMain(m *testing.M) {
	// What a pause may take on a busy host is not what most tests are about; those that
	// are give --max-pause.
	if err := os.Setenv("SNAP_MAX_PAUSE", "5m"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"snap": main, "memsnap": main, measuredName: measured})
}

// TestScripts runs the scenarios of testdata/script: the command line against
// the built-in lab guests and against files.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"core":  core32or64,
			"raw":   rawImage,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("LIBVIRT_DEFAULT_URI", "lab:///")
			kdump, err := os.ReadFile("../../hv/file/testdata/qemu-7.2-2MiB.kdump-zlib.gz")
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "guest.kdump.gz"), kdump, 0o600); err != nil {
				return err
			}
			env.Setenv("SNAP_MAX_PAUSE", os.Getenv("SNAP_MAX_PAUSE"))
			return nil
		},
	})
}

// core32or64 writes an ELF core of a MiB of memory that isn't Windows: core CLASS
// MACHINE FILE, with the numbers that stand in the file (System V ABI, chapter 4).
func core32or64(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: core CLASS MACHINE FILE")
	}
	class, err := strconv.ParseUint(args[0], 10, 8)
	ts.Check(err)
	machine, err := strconv.ParseUint(args[1], 10, 16)
	ts.Check(err)
	const offset, size = 4096, 1 << 20
	le := binary.LittleEndian
	b := make([]byte, offset, offset+size)
	copy(b, "\x7fELF\x00\x01\x01")
	b[4] = byte(class)
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], uint16(machine))
	if class == 1 {
		le.PutUint32(b[28:], 52)
		le.PutUint16(b[42:], 32)
		le.PutUint16(b[44:], 1)
		le.PutUint32(b[52:], 1)
		le.PutUint32(b[52+4:], offset)
		le.PutUint32(b[52+16:], size)
	} else {
		le.PutUint64(b[32:], 64)
		le.PutUint16(b[54:], 56)
		le.PutUint16(b[56:], 1)
		le.PutUint32(b[64:], 1)
		le.PutUint64(b[64+8:], offset)
		le.PutUint64(b[64+32:], size)
	}
	for i := range size {
		b = append(b, byte(i>>4))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
}

// rawImage writes a raw image of a lab guest: raw MACHINE MIB dense|flat FILE. Dense,
// it has the memory alone; flat, the hole below 4 GiB too.
func rawImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: raw MACHINE MIB dense|flat FILE")
	}
	mib, err := strconv.ParseUint(args[1], 10, 32)
	ts.Check(err)
	im, err := ntlab.Build(ntlab.Config{Profile: "win10-22h2", Machine: args[0], Memory: mib << 20})
	ts.Check(err)
	path := ts.MkAbs(args[3])
	if args[2] == "dense" {
		ts.Check(writeDense(im, path))
		return
	}
	f, err := os.Create(path)
	ts.Check(err)
	ts.Check(errors.Join(im.WriteRaw(f), f.Close()))
}

// writeDense writes the memory of a lab guest from one end to the other, without the
// hole below 4 GiB. What was never written becomes holes of the file.
func writeDense(im *ntlab.Image, path string) error {
	const fourGiB = phys.PFN(0x100000)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	low := phys.PFN(0) // where the hole begins
	for _, r := range im.RAM() {
		if r.Base < fourGiB {
			low = r.End()
		}
	}
	err = f.Truncate(int64(im.Config.Memory))
	for pfn, page := range im.Pages() {
		if pfn >= fourGiB {
			pfn = pfn - fourGiB + low
		}
		_, err1 := f.WriteAt(page[:], int64(pfn.Addr()))
		err = errors.Join(err, err1)
	}
	return errors.Join(err, f.Close())
}

// exits runs a program and demands its exit code: exits 10 snap dump nobody.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("%v exited with %d; want %d", args[1:], got, want)
	}
}
