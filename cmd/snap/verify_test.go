package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"snap/internal/ntlab"
	"snap/manifest"
)

// foreignHeaders change the header of a plain dump of snap's to what Windows and LiveKD
// write. What each is good for is the matter of package verify's tests.
var foreignHeaders = map[string]struct {
	bitmap  bool
	make    func(b []byte) []byte
	lines   []string // of snap verify, as verdict, check, detail
	readers string   // that snap info and convert name
}{
	"LiveKD": {false, func(b []byte) []byte {
		le := binary.LittleEndian
		b[0x10] |= 2                                               // a PCID
		le.PutUint64(b[0xFA0:], le.Uint64(b[0xFA0:])-0x2000)       // RequiredDumpSpace without the header
		le.PutUint64(b[0xF10:], 0xFFFFF80000001234)                // the exception is elsewhere
		for _, at := range []int{0x1040, 0x1044, 0x1048, 0x1054} { // product, suite, writer's status, boot id
			copy(b[at:], "PAGE")
		}
		return b
	}, []string{
		"NOTE bits of DirectoryTableBase", "NOTE RequiredDumpSpace", "NOTE exception record", "NOTE version and times ProductType is not set",
	}, ""},
	"Windows' kernel dump": {true, func(b []byte) []byte {
		le := binary.LittleEndian
		first, end := le.Uint64(b[0x2020:]), 0x2038+le.Uint64(b[0x2030:])/8
		b = slices.Delete(b, int(end), int(first))
		le.PutUint64(b[0x2020:], end)
		le.PutUint64(b[0xFA0:], uint64(len(b)))
		copy(b[0x2000:], "SDMP")
		b[0xF98] = 6
		return b
	}, []string{
		"LIMIT bitmap for memflow memflow: ", "LIMIT bitmap for LeechCore LeechCore: the first page is at 0x",
		"LIMIT bitmap for volatility volatility 2, volatility3: a bitmap kernel dump; they take type 5 only",
	}, "not for memflow, volatility 2, volatility3"}, // its copy is aligned
}

// TestOtherToolsDumps: dumps as other tools write them are verified with exit code 0,
// with what is to be known of them, and converted with exit code 0.
func TestOtherToolsDumps(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	im, err := ntlab.Build(ntlab.Config{Seed: 91, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	core := writeCore(t, at("guest.elf"), im)
	do := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(t.Context(), append(args, "--log-format", "console"), &out, &errs)
		return code, out.String(), errs.String()
	}
	for format, name := range map[string]string{"bitmap": "bitmap.dmp", "full": "runs.dmp"} {
		if code, _, stderr := do("convert", core, "-o", at(name), "--compress", "none", "--format", format); code != exitOK {
			t.Fatalf("convert exits with %d: %s", code, stderr)
		}
	}
	for name, tt := range foreignHeaders {
		t.Run(name, func(t *testing.T) {
			from := map[bool]string{false: "runs.dmp", true: "bitmap.dmp"}[tt.bitmap]
			b, err := os.ReadFile(at(from))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at("foreign.dmp"), tt.make(b), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := do("verify", at("foreign.dmp"))
			lines := strings.Split(stdout, "\n")
			for i, l := range lines {
				lines[i] = strings.Join(strings.Fields(l), " ")
			}
			for _, want := range tt.lines {
				if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
					t.Errorf("snap verify says\n%s\nwant a line %q", stdout, want)
				}
			}
			if code != exitOK || strings.Contains(stdout, "FAIL") {
				t.Errorf("snap verify exits with %d: %s%s", code, stdout, stderr)
			}
			code, _, stderr = do("convert", at("foreign.dmp"), "-o", at("out.dmp.zst"), "--force")
			if code != exitOK || !strings.Contains(stderr, "verified") || !strings.Contains(stderr, tt.readers) {
				t.Errorf("snap convert exits with %d, and says %s; want 0, and %q", code, stderr, tt.readers)
			}
			_, stdout, _ = do("verify", "--json", at("out.dmp.zst"))
			var v manifest.Verify
			if err := json.Unmarshal([]byte(stdout), &v); err != nil {
				t.Fatal(err)
			}
			for _, c := range v.Checks {
				limit := c.Level == manifest.LevelLimit
				if c.OK != (c.Level == "") || limit != (len(c.Readers) > 0) || c.Level == manifest.LevelFail {
					t.Errorf("of its copy snap verify says %+v", c)
				}
			}
			if !v.OK {
				t.Errorf("its copy is not OK: %+v", v)
			}
		})
	}
}
