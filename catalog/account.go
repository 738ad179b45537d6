package catalog

import (
	"strconv"
	"strings"
	"time"

	"snap/manifest"
)

// maxText bounds the texts that are kept of a manifest, which may say anything.
const maxText = 300 // bytes

// maxRecipients bounds how many are kept of those to whom a dump is encrypted: no snap
// encrypts to more.
const maxRecipients = 100

// Account is what a catalogue keeps of a manifest: its word, whatever it is. Texts are
// cut off behind 300 bytes and may hold anything but broken UTF-8.
type Account struct {
	Snap     string // the version that wrote it
	Domain   string
	UUID     string // of the domain, in lower case; empty of a dump that was made from a file
	Host     string
	Started  time.Time
	Finished time.Time
	Output   string // where the dump was written
	Mode     string
	Moment   manifest.Consistency
	Windows  string // kind and version
	Written  uint64 // bytes of the file
	Expanded uint64 // bytes of the dump in it
	SHA256   string // of the file

	// EncryptedTo are those who can decrypt the file, nil if it isn't encrypted.
	EncryptedTo []string

	// Verified: it was verified as far as it was to be, and nothing failed. ReadBack is
	// how many bytes of the file were read back for that.
	Verified bool
	ReadBack uint64
	Degraded bool

	// BugCheck is the code in the dump's header, 0 where there is none. Guests that had
	// not crashed have one, too: see header.LiveBugCheck.
	BugCheck uint32
}

// accountOf takes from a manifest what a catalogue keeps.
func accountOf(m *manifest.Manifest) *Account {
	a := &Account{
		Snap: clip(m.Snap), Domain: clip(m.Domain), UUID: clip(strings.ToLower(m.UUID)), Host: clip(m.Host),
		Started: m.Started, Finished: m.Finished, Output: clip(m.Output), Mode: clip(m.Mode), Moment: m.Moment(),
		Windows: clip(m.Guest.Windows), Written: m.Bytes.Written, Expanded: m.Bytes.Dump, SHA256: clip(m.SHA256),
		Degraded: m.ExitCode == manifest.ExitDegraded,
	}
	for _, name := range m.EncryptedTo[:min(len(m.EncryptedTo), maxRecipients)] {
		a.EncryptedTo = append(a.EncryptedTo, clip(name))
	}
	if v := m.Verify; v != nil {
		a.Verified, a.ReadBack = v.OK, v.ReadBack
	}
	if code, err := strconv.ParseUint(m.Header.Fields["BugCheckCode"].Value, 0, 32); err == nil {
		a.BugCheck = uint32(code)
	}
	return a
}

// clip bounds a text, and makes a copy that holds no larger one in memory.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strings.Clone(s)
}
