package main

import (
	"errors"
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"36h": 36 * time.Hour, "14d": 14 * day, "8w": 56 * day, "1h30m": 90 * time.Minute, "106751d": 106751 * day,
	} {
		if got, err := parseSpan(s); err != nil || got != want {
			t.Errorf("parseSpan(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "5", "0d", "-1d", "-1h", "0s", "d", "1.5d", "1 d", "106752d", "15251w", "9999999999999999999d", "1y"} {
		if got, err := parseSpan(s); !errors.Is(err, errSpan) {
			t.Errorf("parseSpan(%q) = %v, %v; want %v", s, got, err, errSpan)
		}
	}
}
