package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"snap/internal/ntlab"
	"snap/manifest"
)

// TestDegradedDump demands of a guest whose process list runs in a circle that
// its dump is written, since it may be all that there will ever be, but that
// exit code, manifest and warnings say what is wrong with it.
func TestDegradedDump(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Memory: 96 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := attackOf(t, "process cycle").Edit(im); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	core := writeCore(t, filepath.Join(dir, "guest.elf"), im)
	out := filepath.Join(dir, "out.dmp.zst")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"convert", core, "-o", out, "--log-format", "console"}, &stdout, &stderr)
	if code != exitDegraded {
		t.Fatalf("snap convert exits with %d; want %d\n%s", code, exitDegraded, stderr.String())
	}
	if !strings.Contains(stderr.String(), "verification failed: process list") || !strings.Contains(stderr.String(), "\nnext: ") {
		t.Errorf("stderr is %q; want the check that failed and a next step", stderr.String())
	}
	doc, err := os.ReadFile(out + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var sum struct {
		ExitCode int `json:"exit_code"`
		Verify   struct{ OK bool }
	}
	if err := json.Unmarshal(doc, &sum); err != nil {
		t.Fatal(err)
	}
	if sum.ExitCode != exitDegraded || sum.Verify.OK {
		t.Errorf("manifest has exit code %d and verdict %v; want %d and false", sum.ExitCode, sum.Verify.OK, exitDegraded)
	}
	if code := run(t.Context(), []string{"verify", out}, &stdout, &stderr); code != exitFailed {
		t.Errorf("snap verify exits with %d; want %d", code, exitFailed)
	}
}

// TestWithoutKDBG demands the same of a guest whose KDBG is overwritten: the header is
// made of what else the guest has, and whoever reads the dump hears of it.
func TestWithoutKDBG(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WriteVirt(im.Truth.KDBG, make([]byte, len(im.Truth.KDBGPlain))); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	core := writeCore(t, filepath.Join(dir, "guest.elf"), im)
	const lack = "the kernel has no debugger data block (KDBG) that can be used"
	source := core
	for _, name := range []string{"first.dmp.zst", "again.dmp.gz"} { // a dump of the guest, and one of that dump
		out := filepath.Join(dir, name)
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"convert", source, "-o", out, "--log-format", "console"}, &stdout, &stderr); code != exitDegraded {
			t.Fatalf("snap convert of %s exits with %d; want %d\n%s", source, code, exitDegraded, stderr.String())
		}
		if !strings.Contains(stderr.String(), lack) || !strings.Contains(stderr.String(), "may refuse the dump") {
			t.Errorf("stderr is %q; want it to say what is lacking, and what that means", stderr.String())
		}
		doc, err := os.ReadFile(out + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var sum manifest.Manifest
		if err := json.Unmarshal(doc, &sum); err != nil {
			t.Fatal(err)
		}
		if sum.ExitCode != exitDegraded || !slices.Contains(sum.Guest.Lacks, lack) || sum.Guest.KDBG != 0 ||
			sum.Guest.Build != im.Truth.Build || sum.Guest.CPUs != len(im.Truth.Processors) {
			t.Errorf("manifest has exit code %d and guest %+v; want %d, and all but the KDBG", sum.ExitCode, sum.Guest, exitDegraded)
		}
		source = out
	}
	var stdout, stderr bytes.Buffer
	// Some readers can use it: it is no failure, and those that can't are named.
	if code := run(t.Context(), []string{"verify", source}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String()+stderr.String(), "the header names none") {
		t.Errorf("snap verify exits with %d and says %s%s; want a limit, for WinDbg", code, stdout.String(), stderr.String())
	}
	if code := run(t.Context(), []string{"info", source}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String()+stderr.String(), lack) {
		t.Errorf("snap info exits with %d and says %s%s; want it to say what is lacking", code, stdout.String(), stderr.String())
	}
}

// attackOf returns what ntlab can do to a guest by its name.
func attackOf(t *testing.T, name string) ntlab.Attack {
	t.Helper()
	for _, a := range ntlab.Attacks() {
		if a.Name == name {
			return a
		}
	}
	t.Fatalf("no attack %q", name)
	return ntlab.Attack{}
}
