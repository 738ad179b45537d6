package main

import (
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"
)

// throughShell is what a shell makes of words.
func throughShell(t testing.TB, shell, words string) string {
	t.Helper()
	out, err := exec.Command(shell, "-c", `for w in `+words+`; do printf '<%s>' "$w"; done`).Output()
	if err != nil {
		t.Fatalf("%s of %s: %v", shell, words, err)
	}
	return string(out)
}

// TestShellWord has shells read what is quoted for them: one word, the same bytes,
// and nothing that a terminal would act upon.
func TestShellWord(t *testing.T) {
	for s, want := range map[string]string{
		"web01": "web01", "/backup/a-b_c.dmp": "/backup/a-b_c.dmp", "qemu+ssh://root@host/system": "qemu+ssh://root@host/system",
		"": "''", "my guest": "'my guest'", "it's": `'it'\''s'`, "$HOME": "'$HOME'", "`id`": "'`id`'", "a\"b": `'a"b'`, "a;rm -rf x": "'a;rm -rf x'",
		"~root": "'~root'", "a*?[b]": "'a*?[b]'", "back\\slash": `'back\slash'`, "bücher": "'bücher'", "!event": "'!event'", "#no": "'#no'",
		"a&b|c>d<e(f)g{h}": "'a&b|c>d<e(f)g{h}'", "-rf": "-rf", "{domain}": "'{domain}'",
		"tab\tstop":       `"$(printf 'tab\011stop')"`,
		"two\nlines":      `"$(printf 'two\012lines')"`,
		"esc\x1b[31m'%\\": `"$(printf 'esc\033[31m\047%%\134')"`,
		"\u202eevil":      `"$(printf '\342\200\256evil')"`,
		"\xff\xfe":        `"$(printf '\377\376')"`,
		"end\n":           `"$(printf 'end')${IFS#??}"`,
		"\n":              `"$(printf '')${IFS#??}"`,
		"-n\x01":          `"$(printf '\055n\001')"`,
	} {
		got := shellWord(s)
		if got != want {
			t.Errorf("shellWord(%q) = %s; want %s", s, got, want)
		}
		for _, shell := range []string{"/bin/sh", "bash"} {
			if back := throughShell(t, shell, got); back != "<"+s+">" {
				t.Errorf("%s makes %q of %s; want %q", shell, back, got, s)
			}
		}
	}
}

// TestShellWordThroughShells is the property: whatever the bytes but NUL.
func TestShellWordThroughShells(t *testing.T) {
	special := []rune("\x01\x1b\x7f\t\n '\"$`\\%&|;<>(){}[]*?~#!-=ü\u202e\u0085")
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOfN(rapid.OneOf(rapid.SampledFrom(special), rapid.RuneFrom(nil, unicode.Latin)), 0, 12, -1).Draw(t, "s")
		if strings.ContainsRune(s, 0) {
			return
		}
		word := shellWord(s)
		if strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("shellWord(%q) = %q; want nothing that a terminal acts upon", s, word)
		}
		if strings.HasPrefix(s, "-") && !strings.ContainsFunc(s, unshown) {
			s = "./" + s
			word = shellPath(s)
		}
		out, err := exec.Command("/bin/sh", "-c", `for w in `+word+`; do printf '<%s>' "$w"; done`).Output()
		if err != nil || string(out) != "<"+s+">" {
			t.Fatalf("/bin/sh makes %q of %s, %v; want %q", out, word, err, s)
		}
	})
}

func TestShellCommand(t *testing.T) {
	for _, tt := range []struct {
		command  string
		flags    []string
		operands []string
		want     string
	}{
		{"snap check", nil, []string{"web01"}, "snap check web01"},
		{"snap check", []string{"-c", "lab:///"}, []string{"my guest"}, "snap check -c lab:/// 'my guest'"},
		{"snap check", nil, []string{"-web"}, "snap check -- -web"},
		{"snap list", []string{"-c", "qemu:///session"}, nil, "snap list -c qemu:///session"},
	} {
		if got := shellCommand(tt.command, tt.flags, tt.operands...); got != tt.want {
			t.Errorf("shellCommand(%q, %q, %q) = %s; want %s", tt.command, tt.flags, tt.operands, got, tt.want)
		}
	}
	if got := throughShell(t, "/bin/sh", shellPath("-a b")); got != "<./-a b>" {
		t.Errorf("a shell makes %s of a path that begins with -; want it as a path", got)
	}
}
