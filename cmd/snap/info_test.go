package main

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"

	"snap/dump"
	"snap/guest"
	"snap/header"
	"snap/manifest"
	"snap/phys"
)

// forTerminal fails the test unless text is safe for a terminal of 80 columns.
func forTerminal(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if n := runewidth.StringWidth(line); n > 80 {
			t.Errorf("%s: a line takes %d columns: %q", what, n, line)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%s: a line has characters that command a terminal: %q", what, line)
		}
	}
}

// TestInfo: what a dump is of, and how it was taken, is shown from the account in it,
// to people and to programs alike, whatever its container.
func TestInfo(t *testing.T) {
	t.Chdir(t.TempDir())
	ends := func(want int, args ...string) {
		t.Helper()
		if code, _, stderr := inProcess(t, append(args, "-q")...); code != want {
			t.Fatalf("snap %v: exit code %d; want %d\n%s", args, code, want, stderr)
		}
	}
	snap := func(args ...string) {
		t.Helper()
		ends(exitOK, args...)
	}
	snap("dump", "win10-22h2-bugcheck", "--mode", "pause", "-o", "pause.dmp.zst")
	// One page of what a driver asks out can't be left out.
	ends(exitDegraded, "dump", "win10-22h2-advert", "--mode", "live", "--exclude", "pa:0x2000000+2", "-o", "live.dmp.gz")
	ends(exitDegraded, "convert", "live.dmp.gz", "-o", "converted.dmp.zst")
	snap("expand", "pause.dmp.zst", "-o", "expanded.dmp")
	snap("convert", "expanded.dmp", "-o", "foreign.dmp.zst")
	live := manifestAt(t, "live.dmp.gz.json")
	for _, tt := range []struct {
		file        string
		consistency manifest.Consistency
		crashed     bool
		lines       []string // patterns
		jq          func(d *dumpInfo) bool
	}{
		{
			"pause.dmp.zst", manifest.OnePointInTime, true,
			[]string{
				`blue screen +bug check 0xe2, MANUALLY_INITIATED_CRASH: the guest had crashed`, `parameters 0x0 0x0 0x0 0x0`,
				`guest's clock +2024-\d\d-\d\d \d\d:\d\d:\d\d UTC`, `guest was up +47 days 5 hours\n`, `SystemUpTime +47 days 5 hours \(`,
				`account +inside the dump, by snap `, `moment +one point in time; the guest stood still for [0-9.]+ m?s`,
				`domain +win10-22h2-bugcheck, `, `host +lab, lab:///`, `started +20\d\d-\d\d-\d\d .* by the host's clock`,
				`last page +20\d\d-\d\d-\d\d `, `mode +pause, memory read by direct`, `left out +nothing`, `verified +not yet`,
			},
			func(d *dumpInfo) bool {
				return d.Account.Manifest.PauseMS > 0 && d.BugCheck.Code == 0xe2 && len(d.BugCheck.Parameters) == 4 && d.GuestUptime > 4e6 && d.GuestClock.Year() == 2024
			},
		},
		{
			"live.dmp.gz", manifest.DifferentTimes, false,
			[]string{
				`blue screen +none: the guest had not crashed`, `account +beside the dump, in live.dmp.gz.json, by snap `,
				`moment +pages are from different times: `, `smear +\d+ \(.*`, `finished +20\d\d-.*, after `, `mode +live, memory read by direct`,
				`left out +35 pages for 8 requests`, `refused +1 request`, `verified +yes, \d+ checks`,
				`left out +--exclude +physical 0x2000000 +2 +operator`, `left out +secrets\.sys +`, `refused +secrets\.sys `, `warning +secrets\.sys asks`,
			},
			func(d *dumpInfo) bool {
				return len(d.Account.Manifest.Excluded) == len(live.Excluded) && d.Account.Manifest.Live != nil && d.Account.Manifest.Verify.OK
			},
		},
		{
			"converted.dmp.zst", manifest.DifferentTimes, false,
			[]string{`mode +convert, memory read by dump`, `made from +a dump in mode live of win10-22h2-advert`, `lab, lab:///`, `left out +35 pages for 8 requests`, `left out +secrets\.sys`},
			func(d *dumpInfo) bool {
				from, err := d.Account.Manifest.ConvertedFrom.Decode()
				return err == nil && from.Mode == "live" && d.Account.Manifest.Pages.Excluded == 35
			},
		},
		{
			"expanded.dmp", manifest.NotKnown, true,
			[]string{`account +none: `, `moment +not known: there is no account`, `blue screen +bug check 0xe2`},
			func(d *dumpInfo) bool { return !d.Account.Found && d.Account.Manifest == nil },
		},
		{
			"foreign.dmp.zst", manifest.NotKnown, true,
			[]string{`account +inside the dump`, `moment +not known: there is no account of the dump that was\n? +converted`},
			func(d *dumpInfo) bool { return d.Account.Believed && !d.Account.Manifest.Consistent },
		},
	} {
		code, text, stderr := inProcess(t, "info", tt.file)
		if code != exitOK {
			t.Fatalf("info %s: exit code %d\n%s", tt.file, code, stderr)
		}
		forTerminal(t, tt.file, text)
		for _, want := range tt.lines {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("info %s lacks %q:\n%s", tt.file, want, text)
			}
		}
		if strings.Contains(text, "taken  ") {
			t.Errorf("info %s says when it was taken, by a clock that isn't named:\n%s", tt.file, text)
		}
		d := infoJSON(t, tt.file)
		if d.Consistency != tt.consistency || d.Consistent != (tt.consistency == manifest.OnePointInTime) ||
			d.BugCheck.Crashed == nil || *d.BugCheck.Crashed != tt.crashed || !tt.jq(d) {
			b, _ := json.Marshal(d.Account)
			t.Errorf("info --json %s: %q, bug check %+v, account %s; want %q, crashed %v", tt.file, d.Consistency, d.BugCheck, b, tt.consistency, tt.crashed)
		}
	}
	// The hash decides whether what lies beside is the dump's.
	b, err := os.ReadFile("live.dmp.gz.json")
	if err != nil {
		t.Fatal(err)
	}
	b = []byte(strings.Replace(string(b), live.SHA256, strings.Repeat("0", 64), 1))
	if err := os.WriteFile("live.dmp.gz.json", b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, text, _ := inProcess(t, "info", "live.dmp.gz")
	if d := infoJSON(t, "live.dmp.gz"); d.Account.Believed || d.Account.Manifest != nil || d.Consistency != manifest.NotKnown || strings.Contains(text, "\nAccount\n") ||
		!strings.Contains(strings.Join(strings.Fields(text), " "), "not believed: it is of another file") {
		t.Errorf("an account with another hash is believed: %+v\n%s", d.Account, text)
	}
}

func infoJSON(t *testing.T, path string) *dumpInfo {
	t.Helper()
	code, text, stderr := inProcess(t, "info", "--json", path)
	if code != exitOK {
		t.Fatalf("info --json %s: exit code %d\n%s", path, code, stderr)
	}
	var d dumpInfo
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatalf("info --json %s: %v", path, err)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsGraphic(r) }) {
		t.Errorf("info --json %s has characters that command a terminal", path)
	}
	return &d
}

func manifestAt(t *testing.T, path string) *manifest.Manifest {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestInfoOfHostileAccount: whatever an account says, it is shown as the file's word on
// a terminal that it can't command.
func TestInfoOfHostileAccount(t *testing.T) {
	t.Chdir(t.TempDir())
	smallDump(t, "small.dmp.zst")
	f, err := dump.Open("small.dmp.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plan, err := f.Plan()
	if err != nil {
		t.Fatal(err)
	}
	const evil = "\x1b[2J\x1b]0;owned\x07\u202egpj.exe\u009b31m\n"
	for name, forge := range map[string]func(m *manifest.Manifest){
		"escapes": func(m *manifest.Manifest) {
			m.Snap, m.Domain, m.UUID, m.Host, m.Connect, m.Mode, m.Source, m.ConsistencyFrom = evil, evil, evil, evil, evil, evil, evil, evil
			m.Warnings = []string{evil, evil + evil}
			m.Excluded = []manifest.Exclusion{{By: evil, Kind: evil, Reason: evil, Status: evil}}
			m.Refused, m.Ignored = m.Excluded, m.Excluded
			m.Verify = &manifest.Verify{Checks: []manifest.Check{{Name: evil, Detail: evil}}}
		},
		"long": func(m *manifest.Manifest) {
			long := strings.Repeat("x", 1<<20)
			m.Domain, m.Host, m.Warnings = long, long, []string{long}
			m.Excluded = make([]manifest.Exclusion, 50_000)
			m.Excluded[0] = manifest.Exclusion{By: long, Kind: long, Reason: long}
		},
		"numbers": func(m *manifest.Manifest) {
			huge := math.MaxFloat64
			m.PauseMS, m.PauseEstimateMS, m.DurationMS, m.DowntimeMS, m.StallMS = huge, -huge, huge, &huge, &huge
			m.Finished = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
			m.SetMoment(manifest.OnePointInTime, "")
			m.RefusedOmitted, m.IgnoredOmitted, m.Repeated = math.MaxInt, math.MinInt, math.MaxInt
			m.Live = &manifest.Live{MaxChanged: math.MaxUint64, Core: manifest.Core{Pages: math.MaxUint64, Unsettled: math.MaxUint64, Rounds: math.MinInt}}
		},
		"no account of this dump": func(m *manifest.Manifest) { m.Pages.Written++ },
		"of other accounts": func(m *manifest.Manifest) {
			m.ConvertedFrom = manifest.Kept(`{"snap":"` + strings.Repeat("y", 5000) + `","domain":"\u001b[2J","converted_from":{"no":"manifest"}}`)
		},
	} {
		m, err := manifest.Decode(f.Metadata())
		if err != nil {
			t.Fatal(err)
		}
		forge(m)
		doc, err := m.Compact()
		if err != nil {
			t.Fatal(err)
		}
		out, err := os.Create("forged.dmp.zst")
		if err != nil {
			t.Fatal(err)
		}
		_, err = dump.Write(t.Context(), out, f, plan, dump.Options{Metadata: func(*dump.Stats) ([]byte, error) { return doc, nil }})
		if err := errors.Join(err, out.Close()); err != nil {
			t.Fatal(err)
		}
		code, text, stderr := inProcess(t, "info", "forged.dmp.zst")
		if code != exitOK || len(text) > 60_000 {
			t.Errorf("%s: exit code %d, %d bytes\n%s", name, code, len(text), stderr)
		}
		forTerminal(t, name, text)
		if strings.ContainsFunc(stderr, func(r rune) bool { return r != '\n' && !unicode.IsGraphic(r) }) {
			t.Errorf("%s: standard error has characters that command a terminal: %q", name, stderr)
		}
		d := infoJSON(t, "forged.dmp.zst")
		if want := name != "no account of this dump"; d.Account.Believed != want || !d.Account.Found {
			t.Errorf("%s: account %+v; want it believed: %v", name, d.Account, want)
		}
	}
}

// TestCrashOf: the guest's memory says whether it had crashed, and where that can't be
// read, the header does.
func TestCrashOf(t *testing.T) {
	known := func(code uint64) *guest.System {
		return &guest.System{BugCheck: guest.BugCheck{Code: phys.Know(code, "KDBG KiBugcheckData")}}
	}
	const unset = 0x45474150
	yes, no := "yes", "no"
	for _, tt := range []struct {
		name    string
		header  uint32
		sys     *guest.System
		crashed string // "" for not known
		from    string
		code    manifest.Hex
		noted   bool
	}{
		{"a crash", 0xe2, known(0xe2), yes, crashFromMemory, 0xe2, false},
		{"a running guest", 0x161, known(0), no, crashFromMemory, 0x161, false},
		{"a running guest, the header of another live dump", 0x193, known(0), no, crashFromMemory, 0x193, false},
		{"the header says live, the guest had crashed", 0x161, known(0x7e), yes, crashFromMemory, 0x7e, true},
		{"the header says crashed, the guest had not", 0xe2, known(0), no, crashFromMemory, 0xe2, true},
		{"nothing in the header", unset, known(0x50), yes, crashFromMemory, 0x50, false},
		{"the guest can't be read, a crash", 0x50, nil, yes, crashFromHeader, 0x50, false},
		{"the guest can't be read, live", 0x161, nil, no, crashFromHeader, 0x161, false},
		{"its bug check can't be read", 0x50, &guest.System{}, yes, crashFromHeader, 0x50, false},
		{"nothing is known", unset, nil, "", "", 0, false},
		{"no bug check and no guest", 0, nil, "", "", 0, false},
	} {
		raw := make([]byte, header.Size64)
		for i := range raw {
			raw[i] = "PAGE"[i%4]
		}
		copy(raw[4:], "DU64")
		for i := range 4 {
			raw[0x38+i] = byte(tt.header >> (8 * i))
			raw[0x30+i] = byte(uint32(header.MachineAMD64) >> (8 * i))
			raw[0xf98+i] = byte(uint32(header.DumpTypeTriage) >> (8 * i))
		}
		h, err := header.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		c, note := crashOf(h, tt.sys)
		crashed := ""
		if c.Crashed != nil {
			crashed = map[bool]string{true: yes, false: no}[*c.Crashed]
		}
		if crashed != tt.crashed || c.From != tt.from || c.Code != tt.code || (note != "") != tt.noted {
			t.Errorf("%s: crashed %q from %q, code %v, note %q; want %q, %q, %v", tt.name, crashed, c.From, c.Code, note, tt.crashed, tt.from, tt.code)
		}
	}
}

func TestLongTime(t *testing.T) {
	for seconds, want := range map[uint64]string{
		0: "less than a second", 1: "1 second", 59: "59 seconds", 60: "1 minute", 61: "1 minute 1 second", 3600: "1 hour", 3605: "1 hour",
		3660: "1 hour 1 minute", 274861: "3 days 4 hours", 86400: "1 day", 86459: "1 day", 90061: "1 day 1 hour",
		math.MaxUint64 / 10_000_000: "21350398 days 5 hours",
	} {
		if got := longTime(seconds); got != want {
			t.Errorf("longTime(%d) = %q; want %q", seconds, got, want)
		}
	}
	for ms, want := range map[float64]string{0.4: "0 ms", 33: "33 ms", 1500: "1.5 s", 61_000: "1 minute 1 second", -5: "0 ms", math.MaxFloat64: "11574 days 1 hour"} {
		if got := duration(ms); got != want {
			t.Errorf("duration(%v) = %q; want %q", ms, got, want)
		}
	}
}
