package guest

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"snap/internal/ntlab/kerneltables"
)

// TestRealKDBGFields: the KDBG of 10.0.19041.804 is read as its public symbols say:
// every field, by its offset and size, and what it points at.
func TestRealKDBGFields(t *testing.T) {
	k := KDBG{Block: realBlocks(t)["kdbg_19041_amd64.bin"]}
	table := map[string]Field{}
	for _, f := range kdbgFields {
		table[f.Name] = f
	}
	rvas := map[string]string{}
	for _, r := range kerneltables.Read(t, realKernels+"kernels.csv") {
		if r["version"] == "10.0.19041.804" && r["arch"] == "amd64" {
			rvas = r
		}
	}
	seen, variables := map[string]bool{}, 0
	for _, r := range kerneltables.Read(t, "testdata/kdbg_19041.804_fields.csv") {
		name := r["field"]
		seen[name] = true
		number := func(column string) uint64 {
			v, err := strconv.ParseUint(r[column], 0, 64)
			if err != nil {
				t.Fatalf("%s: column %s: %v", name, column, err)
			}
			return v
		}
		if want := (Field{name, int(number("offset")), int(number("size"))}); table[name] != want {
			t.Errorf("field %+v; want %+v", table[name], want)
		}
		got, ok := k.Value(name)
		if !ok || got != number("value") {
			t.Errorf("%s = %#x, %v; want %s", name, got, ok, r["value"])
		}
		if r["rva"] != "" && got-uint64(k.KernBase()) != number("rva") {
			t.Errorf("%s is at RVA %#x; want %s", name, got-uint64(k.KernBase()), r["rva"])
		}
		for symbol := range strings.SplitSeq(r["symbol(s) in the public symbol table"], "|") {
			if of := rvas["rva_"+symbol]; of != "" {
				variables++
				if of != r["rva"] {
					t.Errorf("%s points at RVA %s; the public symbols have %s at %s", name, r["rva"], symbol, of)
				}
			}
		}
	}
	for _, f := range kdbgFields {
		if f.Offset < len(k.Block) && !seen[f.Name] {
			t.Errorf("the real block has %s at %#x, which no row says", f.Name, f.Offset)
		}
	}
	if variables < 6 {
		t.Errorf("%d fields were held against the kernel's symbols", variables)
	}
}

// TestRealKDBGs: the blocks of two real dumps, x64 and ARM64, say what the dumps'
// structures show.
func TestRealKDBGs(t *testing.T) {
	text, err := os.ReadFile("testdata/real_dumps.json")
	if err != nil {
		t.Fatal(err)
	}
	var dumps map[string]map[string]map[string]any
	if err := json.Unmarshal(text, &dumps); err != nil {
		t.Fatal(err)
	}
	blocks := realBlocks(t)
	for arch, file := range map[string]string{"x64": "kdbg_19041_amd64.bin", "arm64": "kdbg_22000_arm64.bin"} {
		k := KDBG{Block: blocks[file]}
		if err := k.check(AMD64(), 0); err != nil {
			t.Errorf("%s: the block isn't taken: %v", arch, err)
		}
		facts := dumps[arch]["KDBG"]
		if len(facts) < 20 {
			t.Fatalf("%s: %d facts", arch, len(facts))
		}
		for name, want := range facts {
			if got, ok := k.Value(name); !ok || "0x"+strconv.FormatUint(got, 16) != want {
				t.Errorf("%s: %s = %#x, %v; want %s", arch, name, got, ok, want)
			}
		}
	}
}
