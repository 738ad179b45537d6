package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"snap/dump"
	"snap/exclude"
	"snap/hv"
	"snap/hv/file"
	"snap/input"
	"snap/internal/ntlab"
	"snap/manifest"
	"snap/phys"
	"snap/store"
)

// takeTo takes a dump of vm with its manifest beside it.
func takeTo(t *testing.T, vm hv.VM, name string, o Options) *Result {
	t.Helper()
	dir, base := filepath.Split(name)
	o.Manifest, o.Tool = true, "0.1-test"
	res, err := Take(t.Context(), vm, store.Folder(dir, store.Options{}), base, o)
	if err != nil {
		t.Fatalf("Take failed: %v", err)
	}
	return res
}

// repackTo converts the dump at one path to one at another, as snap convert does.
func repackTo(t *testing.T, from, to string, c dump.Compression) *Result {
	t.Helper()
	f := openDump(t, from)
	source, err := ReadAccount(t.Context(), f, from, input.Open, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, base := filepath.Split(to)
	o := Options{Manifest: true, Tool: "0.2-test", Write: dump.Options{Compression: c}}
	res, err := Repack(t.Context(), f, source, hv.Identity{Name: "copy"}, store.Folder(dir, store.Options{}), base, o)
	if err != nil {
		t.Fatalf("Repack failed: %v", err)
	}
	return res
}

func openDump(t *testing.T, path string) *dump.File {
	t.Helper()
	f, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readManifest(t *testing.T, path string) *manifest.Manifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return decoded(t, b)
}

func decoded(t *testing.T, b []byte) *manifest.Manifest {
	t.Helper()
	m, err := manifest.Decode(b)
	if err != nil {
		t.Fatalf("Decode failed: %v\n%.300s", err, b)
	}
	return m
}

// rewrite writes the dump at path again with another account inside, and with more
// bytes behind its pages if it is plain.
func rewrite(t *testing.T, path, to string, c dump.Compression, account []byte, behind string) {
	t.Helper()
	f := openDump(t, path)
	plan, err := f.Plan()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	o := dump.Options{Compression: c, Metadata: func(*dump.Stats) ([]byte, error) { return account, nil }}
	if _, err := dump.Write(t.Context(), out, f, plan, o); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString(behind); err != nil {
		t.Fatal(err)
	}
}

// sources are dumps of all kinds in one folder, with what becomes of them.
type sources struct {
	dir    string
	live   *manifest.Manifest // beside live.dmp.zst
	advert *manifest.Manifest // beside pause.dmp.zst, which leaves pages out and lacks others
}

func makeSources(t *testing.T) *sources {
	t.Helper()
	s := &sources{dir: t.TempDir()}
	at := func(name string) string { return filepath.Join(s.dir, name) }

	vm := newGuest(t, ntlab.Config{Seed: 71, Memory: 64 << 20})
	broken := freePage(t, vm.im)
	vm.onRead = func(_ context.Context, p []byte, from phys.Addr) error {
		if r, _ := phys.RunOf(from, uint64(len(p))); r.Base <= broken && broken < r.End() {
			return &phys.AccessError{At: from, Len: len(p), Err: errors.New("the page is gone")}
		}
		return nil
	}
	asked, err := exclude.ParseRanges([]string{"pa:0x2000000+3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	look := LookOptions{Exclusion: Exclusion{Requests: asked}}
	s.advert = takeTo(t, vm, at("pause.dmp.zst"), Options{Mode: Pause{}, Look: look, MemoryCopy: 1 << 30}).Manifest
	takeTo(t, vm, at("pause.dmp.gz"), Options{Mode: Pause{}, Look: look, MemoryCopy: 1 << 30, Write: dump.Options{Compression: dump.CompressionGzip}})

	running := newLive(t, ntlab.Config{Seed: 72, Memory: 64 << 20})
	page := freePage(t, running.im)
	n := byte(0)
	running.onRead = func(context.Context, []byte, phys.Addr) error {
		n++
		return running.im.WritePhys(page.Addr(), []byte{n})
	}
	o := liveJob(running, 1<<30).Options
	o.MaxChanged = &ChangeLimit{}
	s.live = takeTo(t, running, at("live.dmp.zst"), o).Manifest

	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	copyFile := func(from, to string) {
		b, err := os.ReadFile(at(from))
		must(err)
		must(os.WriteFile(at(to), b, 0o600))
	}
	copyFile("pause.dmp.gz", "alone.dmp.gz")
	copyFile("pause.dmp.gz", "stale.dmp.gz")
	b, err := os.ReadFile(at("pause.dmp.gz.json"))
	must(err)
	// Of the same length, with another hash.
	must(os.WriteFile(at("stale.dmp.gz.json"), bytes.Replace(b, []byte(`"sha256": "`), []byte(`"sha256": "0`), 1), 0o600))
	copyFile("pause.dmp.gz", "bent.dmp.gz")
	must(os.WriteFile(at("bent.dmp.gz.json"), []byte(`{"snap":`), 0o600))

	rewrite(t, at("pause.dmp.zst"), at("plain.dmp"), dump.CompressionNone, nil, "")
	rewrite(t, at("pause.dmp.zst"), at("secondary.dmp"), dump.CompressionNone, nil, "blobs behind the last page")
	rewrite(t, at("live.dmp.zst"), at("spliced.dmp.zst"), dump.CompressionZstd, openDump(t, at("pause.dmp.zst")).Metadata(), "")
	older := bytes.Replace(openDump(t, at("live.dmp.zst")).Metadata(), []byte(`"mode":"live"`), []byte(`"mode":"convert"`), 1)
	older = bytes.Replace(older, []byte(`"consistent":false,"consistency":"different times"`), []byte(`"consistent":true`), 1)
	rewrite(t, at("live.dmp.zst"), at("older.dmp.zst"), dump.CompressionZstd, older, "")
	return s
}

// TestRepack converts dumps of all kinds.
func TestRepack(t *testing.T) {
	t.Parallel()
	s := makeSources(t)
	for name, test := range map[string]func(*testing.T, *sources){
		"the moment": convertedMoment, "inside and beside": insideAndBeside, "what is missing": convertedKeepsWhatIsMissing,
		"forged accounts": forgedAccounts, "hostile accounts": hostileAccounts,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// freePage returns a populated page that nothing of Windows is in.
func freePage(t *testing.T, im *ntlab.Image) phys.PFN {
	t.Helper()
	pages, err := im.AllocPhys(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := im.WritePhys(pages[0].Addr(), []byte("data")); err != nil {
		t.Fatal(err)
	}
	return pages[0]
}

// convertedMoment: what is said of the time that a dump's pages are of is what is
// known of it, from whatever kind of file it was made, however often.
func convertedMoment(t *testing.T, s *sources) {
	all := dump.Compressions()
	for i, tt := range []struct {
		from     string
		want     manifest.Consistency
		why      string // in where that is known from
		mode     string // of the account that is kept, "" for none
		degraded bool   // as the source was
		warns    string
	}{
		{"pause.dmp.zst", manifest.OnePointInTime, "the account inside the dump", "pause", true, ""},
		{"pause.dmp.gz", manifest.OnePointInTime, "the account beside the dump, in pause.dmp.gz.json", "pause", true, ""},
		{"live.dmp.zst", manifest.DifferentTimes, "the account inside the dump", "live", true, ""},
		{"older.dmp.zst", manifest.NotKnown, "which doesn't say", "convert", true, ""},
		{"alone.dmp.gz", manifest.NotKnown, "there is no account", "", false, ""},
		{"plain.dmp", manifest.NotKnown, "had not crashed (bug check 0x161)", "", false, ""},
		{"secondary.dmp", manifest.NotKnown, "there is no account", "", false, "26 bytes after the last page (secondary data) are left out"},
		{"stale.dmp.gz", manifest.NotKnown, "not to be believed", "", false, "stale.dmp.gz.json that is converted is not believed: it is of another file"},
		{"bent.dmp.gz", manifest.NotKnown, "not to be believed", "", false, "not a manifest"},
		{"spliced.dmp.zst", manifest.NotKnown, "not to be believed", "pause", false, "it is not of this dump"},
	} {
		t.Run(tt.from, func(t *testing.T) {
			from := filepath.Join(s.dir, tt.from)
			for _, c := range []dump.Compression{all[i%len(all)]} {
				to := filepath.Join(s.dir, fmt.Sprintf("to-%d-%s.dmp%s", i, tt.from, c.Suffix()))
				res := repackTo(t, from, to, c)
				m := res.Manifest
				if m.Moment() != tt.want || m.Consistent != (tt.want == manifest.OnePointInTime) || res.Consistency != tt.want || !strings.Contains(m.ConsistencyFrom, tt.why) {
					t.Errorf("in %s: %q from %q, consistent %v; want %q, %q", c, m.Consistency, m.ConsistencyFrom, m.Consistent, tt.want, tt.why)
				}
				kept, err := m.ConvertedFrom.Decode()
				if err != nil || (kept != nil) != (tt.mode != "") || kept != nil && kept.Mode != tt.mode {
					t.Errorf("in %s: the account kept is %+v, %v; want one of mode %q", c, kept, err, tt.mode)
				}
				if res.Degraded != tt.degraded || (m.ExitCode == manifest.ExitDegraded) != tt.degraded {
					t.Errorf("in %s: degraded %v, exit code %d; want %v", c, res.Degraded, m.ExitCode, tt.degraded)
				}
				if got := strings.Join(m.Warnings, "\n"); !strings.Contains(got, tt.warns) {
					t.Errorf("in %s: warnings %q; want %q", c, got, tt.warns)
				}
				sameInsideAndBeside(t, to)
				// And on, from the file that came of it.
				if tt.mode == "" || kept == nil {
					continue
				}
				again := repackTo(t, to, to+".again.dmp.zst", dump.CompressionZstd).Manifest
				if again.Moment() != tt.want || again.ExitCode != m.ExitCode {
					t.Errorf("converted again from %s: %q, exit code %d; want %q, %d", c, again.Moment(), again.ExitCode, tt.want, m.ExitCode)
				}
				last, err := again.ConvertedFrom.Decode()
				if err != nil || last.Mode != manifest.ModeConvert || !bytes.Equal(last.ConvertedFrom, m.ConvertedFrom) {
					t.Errorf("converted again from %s: the account kept is %+v, %v; want that of the conversion, with what it had kept", c, last, err)
				}
			}
		})
	}
}

// sameInsideAndBeside holds the account inside a dump against that beside it: they
// differ in what was known afterwards.
func sameInsideAndBeside(t *testing.T, path string) {
	t.Helper()
	doc := openDump(t, path).Metadata()
	if doc == nil {
		return
	}
	beside, inside := readManifest(t, ManifestOf(path)), decoded(t, doc)
	said := len(beside.Warnings)
	beside.Warnings = slices.DeleteFunc(beside.Warnings, func(w string) bool { return strings.HasPrefix(w, "verification found: ") })
	if len(beside.Warnings) < said {
		beside.ExitCode = inside.ExitCode // that, too, follows of what was verified
	}
	after := cmpopts.IgnoreFields(manifest.Manifest{}, "Finished", "DurationMS", "Output", "SHA256", "Verify", "Bytes.Written")
	if diff := cmp.Diff(inside, beside, after); diff != "" {
		t.Errorf("the account beside %s differs from that inside (-inside +beside):\n%s", filepath.Base(path), diff)
	}
}

// insideAndBeside: the two accounts of a dump say the same, in every mode.
func insideAndBeside(t *testing.T, s *sources) {
	sameInsideAndBeside(t, filepath.Join(s.dir, "pause.dmp.zst"))
	sameInsideAndBeside(t, filepath.Join(s.dir, "live.dmp.zst"))
	if s.live.ExitCode != manifest.ExitDegraded || s.advert.ExitCode != manifest.ExitDegraded {
		t.Errorf("exit codes %d, %d; want degraded dumps", s.live.ExitCode, s.advert.ExitCode)
	}
	core := filepath.Join(s.dir, "core")
	for name, o := range map[string]file.Options{"elf": {}, "raw": {Raw: true}} {
		im := newGuest(t, ntlab.Config{Seed: 73, Memory: 64 << 20}).im
		out, err := os.Create(core)
		if err != nil {
			t.Fatal(err)
		}
		write := im.WriteELFCore
		if o.Raw {
			write = im.WriteRaw
		}
		if err := errors.Join(write(out), out.Close()); err != nil {
			t.Fatal(err)
		}
		src, err := file.Open(t.Context(), core, o)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		res, err := Convert(t.Context(), src, hv.Identity{Name: name}, store.Folder(s.dir, store.Options{}), name+".dmp.zst", Options{Manifest: true, Tool: "test"})
		if err != nil {
			t.Fatalf("Convert of %s failed: %v", name, err)
		}
		if m := res.Manifest; m.Moment() != manifest.NotKnown || m.Consistent || m.Consistency != manifest.NotKnown || m.ConvertedFrom != nil {
			t.Errorf("a dump of a %s file is of %q, consistent %v, from %q; want not known", name, m.Consistency, m.Consistent, m.ConvertedFrom)
		}
		sameInsideAndBeside(t, filepath.Join(s.dir, name+".dmp.zst"))
	}
}

// convertedKeepsWhatIsMissing: pages that the source left out, or could not read,
// are told of the new dump as they were of the source.
func convertedKeepsWhatIsMissing(t *testing.T, s *sources) {
	for _, from := range []string{"pause.dmp.zst", "live.dmp.zst"} {
		to := filepath.Join(s.dir, "new-"+from)
		got := repackTo(t, filepath.Join(s.dir, from), to, dump.CompressionZstd).Manifest
		twice := repackTo(t, to, to+".dmp.zst", dump.CompressionZstd).Manifest
		want := s.advert
		if from == "live.dmp.zst" {
			want = s.live
		}
		for _, m := range []*manifest.Manifest{got, twice} {
			pages := want.Pages
			pages.Zero = m.Pages.Zero // what lies over a zero page is a part of a dump
			// Of a dump whole frames are known to be zeros.
			if pages.Unpopulated = m.Pages.Unpopulated; pages.Unpopulated == 0 || pages.Unpopulated > want.Pages.Unpopulated {
				t.Errorf("%s: %d pages need not be read; want some of the %d of the guest", from, pages.Unpopulated, want.Pages.Unpopulated)
			}
			if m.Pages != pages {
				t.Errorf("%s: pages %+v; want %+v", from, m.Pages, pages)
			}
			if diff := cmp.Diff(want.Excluded, m.Excluded, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: excluded pages differ (-source +new):\n%s", from, diff)
			}
			if diff := cmp.Diff(want.Live, m.Live); diff != "" {
				t.Errorf("%s: live differs (-source +new):\n%s", from, diff)
			}
			if len(m.Gaps) != len(want.Gaps) || len(m.Gaps) > 0 && (m.Gaps[0].Address != want.Gaps[0].Address ||
				m.Gaps[0].Reason != "unreadable when the source was made: "+want.Gaps[0].Reason) {
				t.Errorf("%s: gaps %v; want %v", from, m.Gaps, want.Gaps)
			}
			for _, w := range want.Warnings {
				if !slices.Contains(m.Warnings, fmt.Sprintf("the source's account warns: %q", w)) {
					t.Errorf("%s: warnings %q; want %q among them", from, m.Warnings, w)
				}
			}
		}
	}
	if s.advert.Pages.Unreadable != 1 || s.advert.Pages.Excluded != 3 || s.live.Pages.ChangedWhileReading == 0 {
		t.Errorf("the sources have pages %+v and %+v; want one unreadable, 3 excluded, and some changed", s.advert.Pages, s.live.Pages)
	}
}

// forgedAccounts: an account that can't be of the dump is shown as what it is, and
// nothing of it is believed.
func forgedAccounts(t *testing.T, s *sources) {
	f := openDump(t, filepath.Join(s.dir, "pause.dmp.zst"))
	ram := f.RAM()
	outside := manifest.Hex(ram[len(ram)-1].End().Addr())
	for name, forge := range map[string]func(m *manifest.Manifest){
		"pages of another dump":        func(m *manifest.Manifest) { m.Pages.Written++ },
		"type of another dump":         func(m *manifest.Manifest) { m.Header.DumpType = 5 },
		"length of another dump":       func(m *manifest.Manifest) { m.Bytes.Dump += 4096 },
		"tables of another guest":      func(m *manifest.Manifest) { m.Guest.SystemCR3 += 4096 },
		"KDBG of another guest":        func(m *manifest.Manifest) { m.Guest.KDBG++ },
		"more excluded than in total":  func(m *manifest.Manifest) { m.Pages.Excluded++ },
		"more excluded than there are": func(m *manifest.Manifest) { m.Pages.Excluded, m.Pages.Total = math.MaxUint64, m.Pages.Written-1 },
		"more unreadable than zero":    func(m *manifest.Manifest) { m.Pages.Unreadable = m.Pages.Zero + 1 },
		"more zero than written":       func(m *manifest.Manifest) { m.Pages.Zero = m.Pages.Written + 1 },
		"more changed than written":    func(m *manifest.Manifest) { m.Pages.ChangedWhileReading = m.Pages.Written + 1 },
		"a gap outside":                func(m *manifest.Manifest) { m.Gaps[0].Address = outside },
		"a gap at the end of the world": func(m *manifest.Manifest) {
			m.Gaps[0] = manifest.Gap{Address: math.MaxUint64 &^ 0xfff, Pages: 1}
		},
		"gaps of more pages":  func(m *manifest.Manifest) { m.Gaps[0].Pages = m.Pages.Unreadable + 1 },
		"a gap of overflow":   func(m *manifest.Manifest) { m.Gaps[0].Pages = 1 << 52; m.Pages.Unreadable = m.Pages.Zero },
		"a gap of no pages":   func(m *manifest.Manifest) { m.Gaps[0].Pages = 0 },
		"no account of pages": func(m *manifest.Manifest) { m.Pages = manifest.Pages{} },
	} {
		m := decoded(t, f.Metadata())
		if err := fits(m, f); err != nil {
			t.Fatalf("the dump's own account doesn't fit: %v", err)
		}
		forge(m)
		if err := fits(m, f); err == nil {
			t.Errorf("%s: the account fits the dump", name)
		}
		if name != "a gap outside" {
			continue
		}
		doc, err := m.Compact()
		if err != nil {
			t.Fatal(err)
		}
		forged := filepath.Join(t.TempDir(), "forged.dmp.zst")
		rewrite(t, filepath.Join(s.dir, "pause.dmp.zst"), forged, dump.CompressionZstd, doc, "")
		got := repackTo(t, forged, forged+".dmp", dump.CompressionNone).Manifest
		if got.Moment() != manifest.NotKnown || got.Pages.Unreadable != 0 || got.Pages.Excluded != 0 || len(got.Excluded) != 0 || len(got.ConvertedFrom) == 0 {
			t.Errorf("%s: of %q, pages %+v, kept %v; want it kept and not believed", name, got.Moment(), got.Pages, len(got.ConvertedFrom) > 0)
		}
	}
}

// hostileAccounts: an account of any size and any words makes a manifest that can
// be read, and no warning that could command a terminal.
func hostileAccounts(t *testing.T, s *sources) {
	path := filepath.Join(s.dir, "live.dmp.zst")
	own := decoded(t, openDump(t, path).Metadata())
	for name, forge := range map[string]func(m map[string]any){
		"words": func(m map[string]any) {
			m["warnings"] = []string{"\x1b[2J\u202e\u009b", strings.Repeat("long ", 10_000)}
		},
		"many warnings": func(m map[string]any) { m["warnings"] = strings.Split(strings.Repeat("w ", 100_000), " ") },
		"many requests": func(m map[string]any) {
			m["excluded"] = make([]struct{}, 400_000)
			m["refused_exclusions"] = make([]struct{}, 90_000)
		},
		"long":    func(m map[string]any) { m["domain"] = strings.Repeat("<", 900_000) },
		"too big": func(m map[string]any) { m["domain"] = strings.Repeat("x", 15<<20) },
		"unknown": func(m map[string]any) { m["moon"] = map[string]any{"phase": 1} },
	} {
		var m map[string]any
		doc, err := own.Compact()
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(doc, &m); err != nil {
			t.Fatal(err)
		}
		forge(m)
		if doc, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "new.dmp.zst")
		rewrite(t, path, to+".forged", dump.CompressionZstd, doc, "")
		got := repackTo(t, to+".forged", to, dump.CompressionZstd).Manifest
		if got.Moment() != manifest.DifferentTimes {
			t.Errorf("%s: of %q; want what the account says", name, got.Moment())
		}
		inside := decoded(t, openDump(t, to).Metadata())
		if kept := len(inside.ConvertedFrom) > 0; kept != (name != "too big") {
			t.Errorf("%s: the account is kept: %v", name, kept)
		}
		if name == "unknown" && !bytes.Contains(inside.ConvertedFrom, []byte(`"moon":{"phase":1}`)) {
			t.Errorf("%s: the account kept lacks what this version doesn't know", name)
		}
		if len(got.Warnings) > maxCarriedWarnings+10 {
			t.Errorf("%s: %d warnings", name, len(got.Warnings))
		}
		for _, w := range got.Warnings {
			if strings.ContainsAny(w, "\x1b\u202e\u009b\n") || len(w) > 3*maxCarriedText {
				t.Errorf("%s: the warning %.100q is not safe to show", name, w)
			}
		}
	}
}
