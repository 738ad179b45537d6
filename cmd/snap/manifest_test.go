package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"snap/manifest"
)

// TestManifestsFollowTheSchema takes dumps of built-in guests in every mode that
// they can be dumped in, and holds what is beside and inside each against the
// schema that others read.
func TestManifestsFollowTheSchema(t *testing.T) {
	t.Parallel()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile("../../docs/manifest.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	first := filepath.Join(dir, "pause.dmp.zst")
	degraded := []int{exitOK, exitDegraded} // a live guest may have changed too much
	for _, tt := range []struct {
		name  string
		codes []int
		args  []string
	}{
		{"pause", []int{exitOK}, []string{"dump", "win10-22h2", "--mode", "pause", "--max-pause", "10m"}},
		{"unspooled", []int{exitOK}, []string{"dump", "ws2003sp1-x64", "--spool", "off", "--max-pause", "10m"}},
		{"live", degraded, []string{"dump", "win10-22h2", "--mode", "live"}},
		{"advertised", []int{exitDegraded}, []string{"dump", "win10-22h2-advert", "--exclude", "pa:0x2000000+2", "--max-pause", "10m"}},
		{"ignored", []int{exitOK}, []string{"dump", "win10-22h2-advert", "--no-advertised", "--max-pause", "10m"}},
		{"lost", []int{exitDegraded}, []string{"dump", "win10-22h2-lost", "--max-pause", "10m"}},
		{"hiding", []int{exitDegraded}, []string{"dump", "win10-22h2-hiding", "--max-pause", "10m"}},
		{"bitmap", []int{exitDegraded}, []string{"dump", "win10-22h2-hostile", "--max-pause", "10m"}},
		{"convert", []int{exitOK}, []string{"convert", first}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(dir, tt.name+".dmp.zst")
			runOnLab(t, tt.codes, append(tt.args, "-q", "-o", out)...)
			beside, err := os.ReadFile(out + ".json")
			if err != nil {
				t.Fatal(err)
			}
			inside := runOnLab(t, []int{exitOK}, "info", "--manifest", out)
			for place, doc := range map[string][]byte{"beside": beside, "inside": inside} {
				if err := followsSchema(schema, doc); err != nil {
					t.Errorf("the manifest %s the dump: %v\n%s", place, err, doc)
				}
			}
			m, err := manifest.Decode(beside)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := m.JSON(); err != nil || !bytes.Equal(again, beside) {
				t.Errorf("reading and writing changed the manifest (%v):\n%s\nto\n%s", err, beside, again)
			}
		})
	}
}

func followsSchema(schema *jsonschema.Schema, doc []byte) error {
	_, err := manifest.Decode(doc)
	v, verr := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if verr == nil {
		verr = schema.Validate(v)
	}
	return errors.Join(err, verr)
}

// runOnLab runs snap, with the built-in guests as its domains, and returns what it
// printed.
func runOnLab(t *testing.T, codes []int, args ...string) []byte {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI=lab:///")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); !slices.Contains(codes, code) {
		t.Fatalf("snap %v exited with %d; want one of %v\n%s", args, code, codes, &stderr)
	}
	return stdout
}
