package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "4096": 4096, "0x1000": 4096, "1K": 1 << 10, "1k": 1 << 10, "4KiB": 4 << 10, "4kib": 4 << 10, "512M": 512 << 20,
		"3G": 3 << 30, "3GB": 3 << 30, "3GiB": 3 << 30, "3 GiB": 3 << 30, "1.5G": 3 << 29, "2T": 2 << 40,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "G", "much", "-1", "-1G", "1Z", "1GG", "1Gi", "0x", "1e9999G", "NaN", "Inf", "99999999999P", "18446744073709551615", "1G1",
	} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d; want an error", s, got)
		}
	}
}

// TestSizesOnTheCommandLine: every flag that takes a size takes powers of two, and
// refuses with an example what can't be meant.
func TestSizesOnTheCommandLine(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"dump x -o y --spool 5", "--spool"},
		{"dump x -o y --spool 5Q", "--spool"},
		{"check x --spool 0", "--spool"},
		{"dump x -o y --memory 1", "--memory"},
		{"dump x -o y --memory -1G", "--memory"},
		{"convert x -o y --memory much", "--memory"},
		{"dump x -o y --max-excluded 5", "--max-excluded"},
		{"convert --raw --ram 0+1Z x -o y", "--ram"},
		{"convert --raw --ram 0x800+0x1000 x -o y", "--ram"},
		{"convert --raw --ram 0+1000 x -o y", "--ram"},
		{"convert --raw --ram 0+4K@100 x -o y", ""}, // a file's memory may begin anywhere: x is missing
		{"dump x -o y --timeout -1s", "--timeout"},
		{"dump x -o  --mode pause", "-o"},
	} {
		var stdout, stderr bytes.Buffer
		args := strings.Split(tt.args, " ")
		code := run(t.Context(), append(args[:1:1], append([]string{"-c", "lab:///"}, args[1:]...)...), &stdout, &stderr)
		if args[0] == "convert" {
			stdout.Reset()
			stderr.Reset()
			code = run(t.Context(), args, &stdout, &stderr)
		}
		if tt.want == "" {
			if code == exitUsage {
				t.Errorf("snap %s: exit code %d, %s; want that the file is missing", tt.args, code, stderr.String())
			}
			continue
		}
		if code != exitUsage || !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("snap %s: exit code %d, stderr %q; want %d and %s", tt.args, code, stderr.String(), exitUsage, tt.want)
		}
	}
}
