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
	SignedBy string // fingerprint of the key that signed the manifest; empty if none did

	// EncryptedTo are those who can decrypt the file, nil if it isn't encrypted.
	EncryptedTo []string

	KeptUntil time.Time // the place was asked to keep it until then; zero if it wasn't

	// Verified: nothing failed. How is empty where the manifest doesn't say.
	Verified bool
	How      manifest.Verified
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
		Windows: clip(m.Guest.Windows), Written: m.Bytes.Written, Expanded: m.Bytes.Dump, SHA256: clip(m.SHA256), SignedBy: clip(m.SignedBy),
		Degraded: m.ExitCode == manifest.ExitDegraded, KeptUntil: m.KeptUntil,
	}
	for _, name := range m.EncryptedTo[:min(len(m.EncryptedTo), maxRecipients)] {
		a.EncryptedTo = append(a.EncryptedTo, clip(name))
	}
	if v := m.Verify; v != nil && v.OK {
		a.Verified, a.How = true, howOf(m)
	}
	if code, err := strconv.ParseUint(m.Header.Fields["BugCheckCode"].Value, 0, 32); err == nil {
		a.BugCheck = uint32(code)
	}
	return a
}

// howOf is how a dump was verified, "" where its manifest doesn't say: older ones only
// say how many bytes were read back.
func howOf(m *manifest.Manifest) manifest.Verified {
	switch {
	case m.Verify.How == manifest.VerifiedReadBack, m.Verify.How == manifest.VerifiedInFlight:
		return m.Verify.How
	case m.Verify.How == "" && m.Verify.ReadBack > 0 && m.Verify.ReadBack == m.Bytes.Written:
		return manifest.VerifiedReadBack
	}
	return ""
}

// clip bounds a text, and makes a copy that holds no larger one in memory.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strings.Clone(s)
}
