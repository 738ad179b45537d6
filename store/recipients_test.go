package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"snap/store"
)

// Public keys for these tests.
const (
	ageKey = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
	sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOBcWZir7muEXs1v08oSJqQpyzNU9RBuP4899H1AQONN someone@somewhere"
)

func TestParseRecipient(t *testing.T) {
	_, ed := sshKeyFile(t, "ed25519")
	_, rsa := sshKeyFile(t, "rsa")
	for text, want := range map[string]string{
		ageKey:               ageKey,
		"  " + ageKey + "\n": ageKey,
		ed:                   "ssh-ed25519 SHA256:",
		rsa:                  "ssh-rsa SHA256:",
	} {
		r, err := store.ParseRecipient(text)
		if err != nil || !strings.HasPrefix(r.String(), want) {
			t.Errorf("ParseRecipient(%q) = %v, %v; want %s", text, r, err, want)
		}
	}
}

// TestRecipientName: an ssh key is called as ssh-keygen calls it.
func TestRecipientName(t *testing.T) {
	path, public := sshKeyFile(t, "ed25519")
	want := strings.Fields(string(ageTool(t, "ssh-keygen", "-l", "-f", path)))[1]
	if got := recipient(t, public).String(); got != "ssh-ed25519 "+want {
		t.Errorf("String() = %q; want the fingerprint %s", got, want)
	}
}

// TestParseRecipientRefuses: what is no public key is refused with the reason, and none
// of it is in the message, as it may be secret.
func TestParseRecipientRefuses(t *testing.T) {
	_, ecdsa := sshKeyFile(t, "ecdsa")
	for text, want := range map[string]string{
		"": "neither", "web01": "neither", "github:someone": "neither",
		"AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX": "private key",
		"AGE-PLUGIN-YUBIKEY-1QQPQQQQ2A4":                                             "private key",
		"-----BEGIN OPENSSH PRIVATE KEY-----":                                        "private key",
		ageKey[:40]:                                                                  "mistake",
		ageKey[:61] + "x":                                                            "mistake",
		"age1pq1qqqq":                                                                "mistake",
		"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t": "plugin",
		"ssh-ed25519 AAAA": "mistake",
		ecdsa:              "ssh-ed25519 and ssh-rsa",
		"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 x": "mistake",
		ageKey + strings.Repeat("q", 9000):           "more than 8192",
	} {
		r, err := store.ParseRecipient(text)
		if !errors.Is(err, store.ErrRecipient) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("ParseRecipient(%.60q) = %v, %v; want %q", text, r, err, want)
		}
		if len(text) > 10 && strings.Contains(fmt.Sprint(err), text[8:]) {
			t.Errorf("ParseRecipient(%.60q) tells the key: %v", text, err)
		}
	}
}

func TestReadRecipients(t *testing.T) {
	_, ed := sshKeyFile(t, "ed25519")
	list := "# the team\n\n" + ageKey + "\r\n  \n" + ed + "\n#" + ageKey + "\n" + ageKey
	got, err := store.ReadRecipients(strings.NewReader(list))
	if err != nil || len(got) != 3 || got[0].String() != ageKey || !strings.HasPrefix(got[1].String(), "ssh-ed25519") {
		t.Errorf("ReadRecipients = %v, %v; want the three keys", got, err)
	}
	for list, want := range map[string]string{
		"":                   "none in the list",
		"# nobody\n":         "none in the list",
		ageKey + "\nweb01\n": "line 2",
		"\n" + ageKey + "\n" + "x" + ageKey + "\n": "line 3",
		strings.Repeat("a", 9000):                  "line 1: no key that files can be encrypted to: it has more than",
		strings.Repeat(ageKey+"\n", 101):           "line 101: no key that files can be encrypted to: there are more than 100",
		strings.Repeat("#\n", 1<<20):               "more than 1048576 bytes",
	} {
		if got, err := store.ReadRecipients(strings.NewReader(list)); !errors.Is(err, store.ErrRecipient) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("ReadRecipients(%.40q) = %v, %v; want %q", list, got, err, want)
		}
	}
}

// FuzzRecipients: no list of keys does any harm, and what is in one can be encrypted to.
func FuzzRecipients(f *testing.F) {
	f.Add(ageKey + "\n")
	f.Add("# comment\n" + sshKey + "\n")
	f.Add("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7\n")
	f.Add("age1pq1qq\nAGE-SECRET-KEY-1QQ\n")
	f.Fuzz(func(t *testing.T, list string) {
		to, err := store.ReadRecipients(strings.NewReader(list))
		if err != nil {
			return
		}
		for _, r := range to {
			if r.String() == "" || strings.ContainsAny(r.String(), "\n\x1b") {
				t.Errorf("a recipient is called %q", r)
			}
			if _, err := store.Encrypt(store.Folder(t.TempDir(), store.Options{}), r); err != nil {
				t.Errorf("Encrypt to %v failed: %v", r, err)
			}
		}
	})
}
