package manifest

// Proof is how it was made sure that the file holds the pages that were read, apart from
// what Verify says of them. Compressed pages are in frames, each of which expands by
// itself.
type Proof struct {
	Verify string `json:"verify"` // what was asked for: decoded or stored
	// Frames are all that hold pages or the header; 0 of a plain dump, whose bytes are
	// the pages. Zero of them hold only zeros and are the same bytes, which were
	// expanded once; Decoded of the others were expanded as soon as they were
	// compressed, and compared with the pages.
	Frames  uint64 `json:"frames"`
	Zero    uint64 `json:"zero_frames"`
	Decoded uint64 `json:"decoded_frames"`
}

// Verify is the verdict on the written file.
type Verify struct {
	OK bool `json:"ok"` // no check failed; a finding of another level is no failure
	// How the file was verified; empty in older manifests, whose files were read back,
	// and of a file that somebody verified later.
	How Verified `json:"how,omitempty"`
	// ReadBack is the file's length if whoever had written it read every byte back,
	// and each was what had been compressed.
	ReadBack uint64 `json:"read_back_bytes,omitempty"`

	Checks  []Check  `json:"checks"`
	Skipped []string `json:"skipped,omitempty"` // could not be made, because others failed
}

// Verified is how a dump was verified by whoever wrote it.
type Verified string

// How dumps are verified.
const (
	// VerifiedReadBack: every byte of the file was read back, and the checks were made
	// on it.
	VerifiedReadBack Verified = "read back"
	// VerifiedInFlight: the file can't be read back. The checks were made on the pages
	// that it was then made of, and what was made of them was expanded again and compared
	// before it was written (Proof). What became of the bytes after that isn't known.
	VerifiedInFlight Verified = "in flight"
)

// Check is one point that readers of dumps demand, or that snap's dumps have in common.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"` // nothing was found
	Detail string `json:"detail,omitempty"`

	// Of a finding:

	Level   string   `json:"level,omitempty"`   // one of the Level constants; older manifests have none, which is LevelFail
	Readers []string `json:"readers,omitempty"` // of LevelLimit: which refuse or misread the dump
	Meant   string   `json:"meant,omitempty"`   // why a dump of snap's own may have it
}

// How much a finding matters.
const (
	LevelFail  = "fail"  // no reader can use the dump, or it can't be judged
	LevelLimit = "limit" // the readers that are named refuse it or misread it
	LevelNote  = "note"  // it differs from what snap writes
)

// Finding is how much what the check found matters, empty if it found nothing.
func (c *Check) Finding() string {
	switch {
	case c.OK:
		return ""
	case c.Level == "":
		return LevelFail
	}
	return c.Level
}
