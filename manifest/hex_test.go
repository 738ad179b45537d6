package manifest

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestHexReads(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Hex
	}{
		{`"0x0"`, 0},
		{`"0x1ad000"`, 0x1ad000},
		{`"0xFFFFF804"`, 0xfffff804},
		{`"0x00000000000000000001"`, 1},
		{`"0xffffffffffffffff"`, math.MaxUint64},
		{` "0x10" `, 0x10},
	} {
		var got Hex
		if err := json.Unmarshal([]byte(tt.in), &got); err != nil || got != tt.want {
			t.Errorf("Unmarshal(%s) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
}

func TestHexRefuses(t *testing.T) {
	for _, in := range []string{
		`""`, `"0x"`, `"1ad000"`, `"0X10"`, `" 0x10"`, `"0x10 "`, `"+0x10"`, `"-0x10"`, `"0x-1"`, `"0x+1"`, `"0x1_0"`, `"0x0x1"`,
		`"0x10000000000000000"`, `"0xg"`, `"0x1.0"`, `"0x1\u0030"`,
		`16`, `0x10`, `null`, `true`, `["0x10"]`, `{"0x10":1}`,
	} {
		got := Hex(7)
		if err := json.Unmarshal([]byte(in), &got); err == nil || got != 7 {
			t.Errorf("Unmarshal(%s) = %v, %v; want an error and nothing changed", in, got, err)
		}
	}
	var h Hex
	for _, in := range []string{`"10"`, `"0x10000000000000000"`, `16`, `null`} {
		if err := h.UnmarshalJSON([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("UnmarshalJSON(%s) = %v; want ErrFormat", in, err)
		}
	}
}

func TestHexIsAKey(t *testing.T) {
	want := map[Hex]string{0: "none", 0x1ad000: "table"}
	b, err := json.Marshal(want)
	if err != nil || string(b) != `{"0x0":"none","0x1ad000":"table"}` {
		t.Fatalf("Marshal(%v) = %s, %v; want keys as 0x and digits", want, b, err)
	}
	var got map[Hex]string
	if err := json.Unmarshal(b, &got); err != nil || len(got) != 2 || got[0x1ad000] != "table" {
		t.Errorf("Unmarshal(%s) = %v, %v; want %v", b, got, err, want)
	}
	if err := json.Unmarshal([]byte(`{"10":"x"}`), &got); !errors.Is(err, ErrFormat) {
		t.Errorf(`Unmarshal({"10":"x"}) = %v; want ErrFormat`, err)
	}
}

func TestHexRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Hex(rapid.Uint64().Draw(t, "number"))
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Hex
		if err := json.Unmarshal(b, &got); err != nil || got != want {
			t.Errorf("Unmarshal(%s) = %v, %v; want %v", b, got, err, want)
		}
	})
}
