package main

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestPlainJSON(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "{\n  \"a\": \"b c\"\n}\n", "{\n  \"a\": \"b c\"\n}\n"},
		{"letters of the world", `"für 日本語 😀"`, `"für 日本語 😀"`},
		{"delete and 8-bit escape", "\"\x7f\u009b2J\"", `"\u007f\u009b2J"`},
		{"from right to left", "\"\u202egpj.exe\"", `"\u202egpj.exe"`},
		{"a tag beyond 16 bits", "\"\U000e0041\"", `"\udb40\udc41"`},
		{"broken UTF-8", "\"\xff\"", `"\ufffd"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(plainJSON([]byte(tt.in))); got != tt.want {
				t.Errorf("plainJSON(%q) = %q; want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestPlainJSONSaysTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, err := json.Marshal(rapid.String().Draw(t, "text"))
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(doc, &want); err != nil {
			t.Fatal(err)
		}
		plain := plainJSON(doc)
		if err := json.Unmarshal(plain, &got); err != nil || got != want {
			t.Errorf("plainJSON(%q) = %q, which says %q, %v; want %q", doc, plain, got, err, want)
		}
	})
}
