package manifest

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// sample has something in every part.
func sample() *Manifest {
	stall := 1.5
	at := time.Date(2026, 11, 22, 1, 0, 0, 123456789, time.UTC)
	return &Manifest{
		Snap: "1.0", Domain: "web01", UUID: "5f5a3c1e-0000-4000-8000-000000000001", Host: "host", Connect: "qemu:///system",
		Started: at, Finished: at.Add(time.Second), Output: "/backup/web01.dmp.zst", ExitCode: 3,
		Mode: "live", Source: "direct", PauseMS: 0.25, StallMS: &stall, DurationMS: 1000,
		Guest:    Guest{Windows: "Windows 10.0.19045", Arch: "amd64", Build: 19045, KernelBase: 0xfffff8040b400000, SystemCR3: 0x1ad000},
		Header:   Header{DumpType: 1, Runs: 2, Fields: map[string]Field{"DirectoryTableBase": {Value: "0x1ad000", From: "PRCB"}}},
		Pages:    Pages{Total: 10, Written: 9, Excluded: 1},
		Live:     &Live{MaxChanged: 1, Core: Core{Pages: 3, Rounds: 2}},
		Verify:   &Verify{Checks: []Check{{Name: "signature", OK: true}}},
		Gaps:     []Gap{{Address: 0x2000, Pages: 1, Reason: "read failed"}},
		Excluded: []Exclusion{{By: "secrets.sys", Kind: "virtual", Address: 0xffff800000001000, Pages: 1, Features: 1}},
		Refused:  []Exclusion{{By: `evil".sys`, Kind: "physical", Reason: "KDBG", Status: "STATUS_ACCESS_DENIED"}},
		Warnings: []string{"<b>&\u2028\x7f"},

		LastPage: at.Add(time.Millisecond), Consistency: DifferentTimes, ConsistencyFrom: "the account inside the source",
		ConvertedFrom: Kept(`{"snap":"0.9","domain":"\u003cb\u003e","moon":[1]}`),
	}
}

func TestDecodeReadsWhatIsWritten(t *testing.T) {
	want := sample()
	for name, encode := range map[string]func() ([]byte, error){"JSON": want.JSON, "Compact": want.Compact} {
		b, err := encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("Decode of %s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Decode of %s differs (-want +got):\n%s", name, diff)
		}
	}
}

// generator makes manifests whose numbers and times are those that JSON has.
func generator() *rapid.Generator[Manifest] {
	year := int64(365 * 24 * time.Hour / time.Second)
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-1900*year, 7000*year).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	return rapid.MakeCustom[Manifest](rapid.MakeConfig{
		Types: map[reflect.Type]*rapid.Generator[any]{
			reflect.TypeFor[time.Time](): moment.AsAny(),
			reflect.TypeFor[Kept](): rapid.Custom(func(t *rapid.T) Kept {
				doc, err := json.Marshal(rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "kept"))
				if err != nil {
					t.Fatal(err)
				}
				if string(doc) == "{}" {
					return nil
				}
				return doc
			}).AsAny(),
			reflect.TypeFor[float64](): rapid.Float64Range(-1e300, 1e300).AsAny(),
		},
		Fields: map[reflect.Type]map[string]*rapid.Generator[any]{
			reflect.TypeFor[Manifest](): {"Snap": rapid.StringN(1, -1, -1).AsAny()},
		},
	})
}

func TestRoundTrip(t *testing.T) {
	manifests := generator()
	rapid.Check(t, func(t *rapid.T) {
		want := manifests.Draw(t, "manifest")
		b, err := want.JSON()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("Decode: %v\n%s", err, b)
		}
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("Decode of what JSON wrote differs (-want +got):\n%s", diff)
		}
	})
}

func TestDecodeTolerates(t *testing.T) {
	for _, tt := range []struct{ name, in string }{
		{"a newer snap's names", `{"snap":"9.0","domain":"web01","moon":{"phase":[1,2]},"guest":{"arch":"arm64","shadow":true}}`},
		{"names that it doesn't have", `{"snap":"0.1","domain":"web01","guest":{"arch":"arm64"}}`},
		{"empty optional parts", `{"snap":"0.1","domain":"web01","guest":{"arch":"arm64"},"live":null,"verify":null,"gaps":null}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Decode([]byte(tt.in))
			if err != nil || m.Domain != "web01" || m.Guest.Arch != "arm64" {
				t.Errorf("Decode(%s) = %+v, %v; want what it knows", tt.in, m, err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "", "unexpected end"},
		{"no object", `["snap"]`, "array"},
		{"null", "null", `"snap"`},
		{"another object", `{"name":"web01"}`, `"snap"`},
		{"cut", `{"snap":"1","domain":"we`, "unexpected end"},
		{"more after it", `{"snap":"1"}{"snap":"1"}`, "after top-level value"},
		{"a number for a name", `{"snap":1}`, "number"},
		{"a number for an address", `{"snap":"1","guest":{"kdbg":4096}}`, "hexadecimal"},
		{"an address above 64 bits", `{"snap":"1","guest":{"kdbg":"0x10000000000000000"}}`, "64 bits"},
		{"pages below none", `{"snap":"1","pages":{"total":-1}}`, "-1"},
		{"no time", `{"snap":"1","started":"yesterday"}`, "yesterday"},
		{"too long", `{"snap":"` + strings.Repeat("x", MaxSize) + `"}`, "bytes; want at most"},
		{"too many elements", `{"snap":"1","excluded":[{}` + strings.Repeat(",{}", maxCommas) + `]}`, "commas; want at most"},
		{"too deep", `{"snap":"1","x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "depth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Decode([]byte(tt.in))
			if m != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Decode() = %v, %v; want ErrFormat with %q", m, err, tt.want)
			}
		})
	}
}

func TestDecodeRepeatsLittle(t *testing.T) {
	_, err := Decode([]byte(`{"snap":"1","guest":{"kdbg":"0x` + strings.Repeat("f", 1<<20) + `"}}`))
	if err == nil || len(err.Error()) > 400 {
		t.Errorf("Decode of a number of 1 MiB fails with %d bytes: %.200v; want a short error", len(err.Error()), err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := sample().Compact()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("Decode failed with %v; want ErrFormat", err)
			}
			return
		}
		first, err := m.JSON()
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("what was written can't be read: %v\n%s", err, first)
		}
		second, err := again.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(first), string(second)); diff != "" {
			t.Errorf("writing and reading changed it (-first +second):\n%s", diff)
		}
	})
}
