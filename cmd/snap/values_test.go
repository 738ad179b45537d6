package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// wrongValues are values that flags can't have, of flags that take any word by
// themselves. Those of a type that can be wrong by itself are in wrongByType.
var wrongValues = map[string][]string{
	"connect":      {""},
	"output":       {""},
	"max-pause":    {"0", "-1s", "0s", "5"},
	"spool":        {"5", "0", "5Q", "much", "-1G", "", "on", "99999999999P", "18446744073709551616"},
	"max-changed":  {"-1", "101%", "few", "%", "NaN%", "-1%", "1.5", ""},
	"max-excluded": {"0", "0%", "101%", "4095", "-1G", "half", "", "99999999999P", "1e99%"},
	"exclude": {
		"pa:0x1001+1", "va:0xfffff80012340001", "0x1000", "pa:", "pa:x", "pa:0x1000+0", "pa:0x1000+-1", "pa:-4096",
		"pa:0x1000+99999999999999999999", "pa:0xfffffffffffff000+2", "va:0x100000000000000", "@", "@/nowhere/ranges", "",
	},
	"timeout":    {"-1s", "soon", "10"},
	"nice":       {"-1", "20", "low"},
	"cpus":       {"-1", "two", "1.5"},
	"memory":     {"1", "0", "4M", "-1G", "much", "", "99999999999T", "16777215"},
	"ram":        {"0x1001+4K", "0+1000", "0+0", "0", "+4K", "4K+", "0+4K@", "0+4K@-1", "0+1Z", "-4K+4K", "0+99999999999P", ""},
	"log-format": {"jsn", "xml"},
	"trace":      {"-", ""},

	"encrypt-to":     {""},
	"identity":       {""},
	"keep-daily":     {"-1", "two", "1.5"},
	"keep-hourly":    {"-1", "two"},
	"keep-last":      {"-1", "two"},
	"keep-local":     {""},
	"keep-monthly":   {"-1", "two"},
	"keep-weekly":    {"-1", "two"},
	"keep-within":    {"", "soon", "0d", "-1d", "10", "99999999999999w"},
	"manifest":       {""},
	"max-total":      {"", "0", "much", "-1G"},
	"s3-credentials": {""},
	"s3-endpoint":    {""},
	"s3-region":      {""},
	"s3-retain":      {""},
	"sign-key":       {""},
	"summary":        {""},
}

// wrongByType are values that no flag of a type can have.
var wrongByType = map[string][]string{
	"bool": {"maybe", "2", "yes"},
	"word": {"bogus", "Auto ", "AUTO!", "-"},
}

// needs are flags without which a flag isn't looked at.
var needs = map[string][]string{"ram": {"--raw"}}

// TestWrongValues walks every flag of every command with values that it can't have,
// on the command line and in the environment: exit code 2, the flag or the variable
// is named, and an example of a right value is given. A flag without wrong values
// is one that somebody forgot here.
func TestWrongValues(t *testing.T) {
	dir := t.TempDir()
	input := filepath.Join(dir, "input")
	if err := os.WriteFile(input, bytes.Repeat([]byte{1}, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	walkFlags(t, func(cmd *cobra.Command, f *pflag.Flag) {
		wrong := append(slices.Clone(wrongByType[f.Value.Type()]), wrongValues[f.Name]...)
		if len(wrong) == 0 {
			t.Errorf("%s --%s has no wrong values in this table", cmd.CommandPath(), f.Name)
		}
		if f.Value.Type() == "bool" {
			wrong = wrongByType["bool"] // of one name with a flag of another command
		}
		for _, value := range wrong {
			args := append([]string{cmd.Name()}, needs[f.Name]...)
			args = append(args, operandsOf(cmd, f, input, filepath.Join(dir, "out"))...)
			refused(t, f, value, "--"+f.Name, append(args, "--"+f.Name+"="+value))
			if value == "" {
				continue // an empty variable is one that is not there
			}
			name := "SNAP_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			t.Setenv(name, value)
			refused(t, f, value, name, args)
			os.Unsetenv(name)
		}
	})
}

// refused fails the test unless snap refuses a flag's value, calling it by name.
func refused(t *testing.T, f *pflag.Flag, value, name string, args []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whatever begins in spite of it ends at once
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, &stdout, &stderr)
	said := stderr.String()
	short := name == "--"+f.Name && f.Shorthand != "" && strings.Contains(said, "-"+f.Shorthand+" ")
	if code != exitUsage || !strings.Contains(said, name) && !short {
		t.Errorf("snap %q: exit code %d, %q; want %d and the name %s", args, code, said, exitUsage, name)
		return
	}
	if !slices.ContainsFunc(examplesOf(f), func(e string) bool { return strings.Contains(said, e) }) {
		t.Errorf("snap %q: %q; want an example of what it takes, one of %q", args, said, examplesOf(f))
	}
}

// examplesOf are right values of a flag, one of which is named when a value is wrong.
func examplesOf(f *pflag.Flag) []string {
	switch f.Name {
	case "connect":
		return []string{"qemu:///system"}
	case "output":
		return []string{"name a file"}
	case "trace":
		return []string{"such as snap.trace"}
	case "exclude":
		return []string{"pa:0x1000"}
	case "ram":
		return []string{"4GiB+2GiB@0x80000000"}
	}
	if takes, ok := textExamples()[f.Name]; ok && f.Value.Type() != "bool" {
		return []string{takes, "512M", "such as 30d"}
	}
	switch f.Value.Type() {
	case "bool":
		return []string{"true or false"}
	case "word":
		return []string{"it can be "}
	}
	return []string{"512M", "10m", "500ms", "such as 10", "such as 7", "such as 4", "like 2", "like 1%", "like 50%", "console"}
}

// walkFlags calls f with every flag of every command that people use.
func walkFlags(t *testing.T, f func(*cobra.Command, *pflag.Flag)) {
	t.Helper()
	for _, cmd := range newRoot(new(app), commands()).Commands() {
		if cmd.Hidden {
			continue
		}
		cmd.InheritedFlags() // completes Flags
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if flag.Name != "help" {
				f(cmd, flag)
			}
		})
	}
}

// operandsOf are arguments with which a command is used rightly.
func operandsOf(cmd *cobra.Command, f *pflag.Flag, input, output string) []string {
	switch cmd.Name() {
	case "header":
		if f.Name == "connect" { // else it isn't looked at
			return []string{"nobody"}
		}
	case "list", "version", "recover":
		return nil
	case "dump", "check":
		return []string{"win10-22h2", "-c", "lab:///", "-o", output + ".dmp.zst"}
	case "convert":
		return []string{input, "-o", output + ".dmp.zst"}
	case "expand":
		return []string{input, "-o", output + ".dmp"}
	case "mount":
		return []string{input, output}
	}
	return []string{input}
}

// TestVersion: both ways to ask say the same.
func TestVersion(t *testing.T) {
	var flag, command, stderr bytes.Buffer
	if a, b := run(t.Context(), []string{"--version"}, &flag, &stderr), run(t.Context(), []string{"version"}, &command, &stderr); a != exitOK || b != exitOK {
		t.Errorf("snap --version ends with %d, snap version with %d; want 0", a, b)
	}
	if flag.String() != command.String() || !strings.HasPrefix(flag.String(), "snap ") {
		t.Errorf("snap --version says %q, snap version %q; want the same", flag.String(), command.String())
	}
}

// TestNearest: what was perhaps meant, and nothing where there is nothing near.
func TestNearest(t *testing.T) {
	names := []string{"web01", "web02", "db-Primary", "win2022-dc", "snapshot", "fastest", "best", "\x1b[31mred", strings.Repeat("x", 300)}
	for word, want := range map[string]string{
		"WEB01": "web01", "wbe01": "web01", "web1": "web01", "db-primary": "db-Primary", "dbprimary": "db-Primary", "win2022": "win2022-dc",
		"snapshoot": "snapshot", "fast": "fastest", "beste": "best", "zzz": "", "": "", "x": "", strings.Repeat("x", 299): "", "\x1b[31mred": "\x1b[31mred",
	} {
		if got := strings.Join(nearest(word, names), " "); got != want {
			t.Errorf("nearest(%q) = %q; want %q", word, got, want)
		}
	}
	if got := didYouMean("\x1b[31mre", names); strings.Contains(got, "\x1b") || got == "" {
		t.Errorf("didYouMean() = %q; want a name as a shell reads it, without its control characters", got)
	}
	many := slices.Repeat([]string{"other"}, maxCandidates)
	if got := nearest("web01", append(many, "web01")); len(got) != 0 {
		t.Errorf("nearest() among more than %d names = %q; want a bounded search", maxCandidates, got)
	}
}
