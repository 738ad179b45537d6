// Package manifest is the account of a dump: what was taken, how, what is in it,
// what stays out and whether it was verified. It lies beside the dump, inside
// containers that can hold it, and is what a script gets. Its JSON names are
// stable, and docs/manifest.schema.json describes them; Decode reads what
// Manifest.JSON and Manifest.Compact write.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// Suffix follows a dump's name in that of the manifest beside it.
const Suffix = ".json"

// SignatureSuffix follows a dump's name in that of its manifest's signature.
const SignatureSuffix = Suffix + ".sig"

// Manifest is the account of one dump. Its JSON names are stable: scripts and
// manifests rely on them, and new ones are only ever added.
type Manifest struct {
	Snap     string    `json:"snap"`
	Domain   string    `json:"domain"`
	UUID     string    `json:"uuid,omitempty"`
	Host     string    `json:"host"`
	Connect  string    `json:"connect,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Output   string    `json:"output"`
	ExitCode int       `json:"exit_code"`

	// LastPage is when the last page was written. Finished isn't known yet in the
	// manifest inside a dump, but this is.
	LastPage time.Time `json:"last_page,omitzero"`

	// State is what the domain did when the dump began, as snap list has it; empty
	// of a file that was converted.
	State  string `json:"state,omitempty"`
	Mode   string `json:"mode"`
	Source string `json:"source"`
	// Consistent: all pages are known to be of one point in time. Consistency tells
	// what is known from what isn't; SetMoment sets all three, and Moment reads them.
	Consistent      bool        `json:"consistent"`
	Consistency     Consistency `json:"consistency,omitempty"`
	ConsistencyFrom string      `json:"consistency_from,omitempty"`

	PauseMS         float64 `json:"pause_ms"`
	PauseEstimateMS float64 `json:"pause_estimate_ms"` // what was likely
	// Of a pause of snap's only: the pessimistic end of its estimate, and how far that
	// could be trusted: high, fair or low.
	PauseEstimateMaxMS      float64 `json:"pause_estimate_max_ms,omitempty"`
	PauseEstimateConfidence string  `json:"pause_estimate_confidence,omitempty"`
	Spooled                 bool    `json:"spooled"` // pages were copied first: the guest stood still, if at all, for that only
	// Of a snapshot only: how long QEMU says that it stopped the guest, and the
	// longest time for which the guest's own clock was seen not to move.
	DowntimeMS *float64 `json:"downtime_ms,omitempty"`
	StallMS    *float64 `json:"stall_ms,omitempty"`
	DurationMS float64  `json:"duration_ms"`

	Guest  Guest  `json:"guest"`
	Header Header `json:"header"`
	Pages  Pages  `json:"pages"`
	Live   *Live  `json:"live,omitempty"` // of mode live
	Bytes  Bytes  `json:"bytes"`
	SHA256 string `json:"sha256,omitempty"` // of the file as it lies there, encrypted or not
	// PlainSHA256 is that of the plain dump, which is in the file or is made of it; empty
	// where nobody asked for it.
	PlainSHA256 string `json:"plain_sha256,omitempty"`
	// EncryptedTo are those who can decrypt the file, by their public keys; nil if it
	// isn't encrypted.
	EncryptedTo []string `json:"encrypted_to,omitempty"`
	// SignedBy is the fingerprint of the ssh key that signed this account, into a file
	// beside it; empty if none did.
	SignedBy string `json:"signed_by,omitempty"`

	// KeptUntil is until when the place was asked to keep the file from being removed;
	// zero if it wasn't.
	KeptUntil time.Time `json:"kept_until,omitzero"`

	Proof  *Proof  `json:"proof,omitempty"` // nil in older ones
	Verify *Verify `json:"verify,omitempty"`
	Gaps   []Gap   `json:"gaps,omitempty"`

	Excluded []Exclusion `json:"excluded"`
	Repeated int         `json:"excluded_repeated,omitempty"` // requests that add no page to these
	Unmet    *Unmet      `json:"unmet,omitempty"`             // nil where it isn't known
	// VTL1 is whether the file holds memory of the guest's secure kernel, which no dump
	// made by Windows does; empty if no secure kernel was seen.
	VTL1           VTL1        `json:"vtl1,omitempty"`
	HidesMemory    bool        `json:"hides_memory,omitempty"` // far more of Pages.Unlisted than firmware keeps
	Refused        []Exclusion `json:"refused_exclusions"`
	RefusedOmitted int         `json:"refused_exclusions_omitted,omitempty"` // refused, but not listed
	Ignored        []Exclusion `json:"ignored_exclusions,omitempty"`         // not for this dump, or --no-advertised
	IgnoredOmitted int         `json:"ignored_exclusions_omitted,omitempty"`

	Warnings []string `json:"warnings"`

	// ConvertedFrom is what the source of a dump that was converted said of itself:
	// its word, whatever it is.
	ConvertedFrom Kept `json:"converted_from,omitempty"`
}

// Guest is what was found in the guest's memory.
type Guest struct {
	Windows     string `json:"windows"` // kind and version, for people
	Arch        string `json:"arch"`
	Build       uint32 `json:"build"`
	ProductType uint32 `json:"product_type"`
	CPUs        int    `json:"cpus"`
	KernelBase  Hex    `json:"kernel_base"`
	// KernelBaseFrom is what led to the kernel; empty of a dump that was converted.
	KernelBaseFrom string `json:"kernel_base_from,omitempty"`
	SystemCR3      Hex    `json:"system_cr3"`
	KDBG           Hex    `json:"kdbg"` // 0 where there is none that can be used
	KDBGEncoded    bool   `json:"kdbg_encoded"`
	VBS            *VBS   `json:"vbs,omitempty"` // nil if nothing of it was seen

	// PublishedHeader is what became of a dump header that the guest itself handed to its
	// hypervisor; empty where none is known of, as in every guest that is running.
	PublishedHeader string `json:"published_header,omitempty"`
	// Lacks are what could not be read of what debuggers need: the dump is degraded
	// then, and warnings say what debuggers can't do.
	Lacks []string `json:"lacks,omitempty"`
}

// Values of Guest.PublishedHeader.
const (
	PublishedAgrees   = "agrees"   // with what was found in the guest's memory
	PublishedDiffers  = "differs"  // in what warnings say
	PublishedUnusable = "unusable" // as a warning says
)

// VTL1 says whether a file holds memory of the guest's secure kernel.
type VTL1 string

// What is known of that.
const (
	VTL1Held   VTL1 = "held"      // it was read from outside of the guest, where nothing hides that memory
	VTL1Unsure VTL1 = "not known" // it depends on who made the file that was converted
)

// VBS is what was seen of virtualization-based security: a hypervisor that Windows runs
// for itself, with a secure kernel (VTL1) beside the one that debuggers see.
type VBS struct {
	SecureKernel        bool   `json:"secure_kernel"`
	SecureKernelFrom    string `json:"secure_kernel_from,omitempty"`
	CredentialGuard     bool   `json:"credential_guard"`
	CredentialGuardFrom string `json:"credential_guard_from,omitempty"`
	HypervisorVCPUs     int    `json:"hypervisor_vcpus"` // that were in the hypervisor, of those whose registers are known
}

// Header is what the dump's header says and where each field came from.
type Header struct {
	DumpType int              `json:"dump_type"`
	Runs     int              `json:"runs"`
	Fields   map[string]Field `json:"fields"`
}

// Field is one header field.
type Field struct {
	Value string `json:"value"`
	From  string `json:"from"`
}

// Pages counts guest pages of 4 KiB.
type Pages struct {
	Total       uint64 `json:"total"`       // in the header's runs
	Written     uint64 `json:"written"`     // in the file, zero ones included
	Zero        uint64 `json:"zero"`        // of these, all zero
	Unpopulated uint64 `json:"unpopulated"` // of the zero ones, not read because the source says that they are zero
	Excluded    uint64 `json:"excluded"`    // not in the file, because they were asked to stay out
	Unreadable  uint64 `json:"unreadable"`  // gaps: in the file as zeros

	// Of the guest's RAM map, as far as it is known: all of it, what Windows'
	// MmPhysicalMemoryBlock doesn't name, and what isn't in the header's runs for
	// that reason.
	RAM      uint64 `json:"ram,omitempty"`
	Unlisted uint64 `json:"unlisted,omitempty"`
	Hidden   uint64 `json:"hidden,omitempty"`
	// Lost are pages that the guest had and the source of a conversion doesn't hold,
	// so that they are in no run.
	Lost uint64 `json:"lost,omitempty"`

	// ChangedWhileReading is 0 but in mode live. There, as soon as all pages are
	// read, all that the host has populated are read again: this many are not
	// what the dump has. A page that had changed back by then isn't among them,
	// nor one that was written to later.
	ChangedWhileReading uint64 `json:"changed_while_reading"`
}

// Live is what mode live says beyond that.
type Live struct {
	MaxChanged uint64 `json:"max_changed"` // pages that may have changed: above, the exit code is 3
	Core       Core   `json:"core"`
}

// Core is how reading the pages went that a debugger can't do without (page
// tables, KDBG, lists, processors' blocks): again and again, until two rounds
// agree on where tables and lists lead.
type Core struct {
	Pages     uint64 `json:"pages"`
	Rounds    int    `json:"rounds"`
	Unsettled uint64 `json:"unsettled"` // pages that still differed in the last round
}

// Bytes counts bytes.
type Bytes struct {
	Read    uint64 `json:"read"`    // from the guest
	Dump    uint64 `json:"dump"`    // of the dump when expanded
	Written uint64 `json:"written"` // of the file
}

// Exclusion is a request to leave pages out.
type Exclusion struct {
	By         string `json:"by"`      // the driver, the flag or the file that asks
	Kind       string `json:"kind"`    // what the address is: virtual or physical
	Address    Hex    `json:"address"` // of the first page
	Pages      uint64 `json:"pages"`   // left out for this request; of a refused one, asked for
	Shared     uint64 `json:"shared,omitempty"`
	NotPresent uint64 `json:"not_present,omitempty"` // not in RAM: nothing to leave out
	Unresolved uint64 `json:"unresolved,omitempty"`  // may be in the file: page tables don't say where they are
	Features   Hex    `json:"features,omitempty"`    // feature bits of its flags
	Reason     string `json:"reason"`
	Status     string `json:"status,omitempty"`   // NTSTATUS of a refused one
	Requests   int    `json:"requests,omitempty"` // how many refused ones the line stands for
}

// Unmet counts what was asked to stay out of the file and is, or may be, in it. If
// all but Kept are 0, no page is in the file that somebody asked to leave out.
type Unmet struct {
	Refused    int    `json:"refused"`    // requests that are not honoured at all
	Unresolved int    `json:"unresolved"` // requests that are honoured but for pages that page tables don't lead to
	Pages      uint64 `json:"pages"`      // of the latter: they may be in the file
	Unread     int    `json:"unread"`     // tables of requests, modules or lists of them that could not be read, or not in full
	Kept       int    `json:"kept"`       // advertised requests that the operator chose not to honour
}

// Any reports whether pages may be in the file against somebody's wish; what the
// operator chose doesn't count. Of nil nothing is known.
func (u *Unmet) Any() bool { return u != nil && (u.Refused > 0 || u.Unresolved > 0 || u.Unread > 0) }

// Gap is a range of pages that could not be read.
type Gap struct {
	Address Hex    `json:"address"` // guest-physical
	Pages   uint64 `json:"pages"`
	Reason  string `json:"reason"`
}

// SamePlain fails if the plain dump whose SHA-256 is sum is not the one that the account
// is of; where it has none there is nothing to say.
func (m *Manifest) SamePlain(sum string) error {
	if m.PlainSHA256 == "" || sum == m.PlainSHA256 {
		return nil
	}
	return fmt.Errorf("%w: the plain dump's SHA-256 is %s, and it says %s", ErrOther, sum, m.PlainSHA256)
}

// ErrOther says that an account is of another dump.
var ErrOther = errors.New("the account is of another dump")

// Warn adds a warning unless it is there already.
func (m *Manifest) Warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	for _, have := range m.Warnings {
		if have == w {
			return
		}
	}
	m.Warnings = append(m.Warnings, w)
}

// Compact returns the summary as JSON without white space, which is how the
// file itself carries it.
func (m *Manifest) Compact() ([]byte, error) {
	m.complete()
	return json.Marshal(m)
}

// JSON returns the summary as indented JSON with a final newline.
func (m *Manifest) JSON() ([]byte, error) {
	m.complete()
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// complete makes lists and maps that must not be null in JSON empty.
func (m *Manifest) complete() {
	if m.Consistency == "" {
		m.Consistency = m.Moment()
	}
	if m.Header.Fields == nil {
		m.Header.Fields = map[string]Field{}
	}
	if m.Verify != nil && m.Verify.Checks == nil {
		m.Verify.Checks = []Check{}
	}
	if m.Warnings == nil {
		m.Warnings = []string{}
	}
	if m.Excluded == nil {
		m.Excluded = []Exclusion{}
	}
	if m.Refused == nil {
		m.Refused = []Exclusion{}
	}
}

// ChangedPages says how many pages changed while they were read, and which share
// of the dump they are, for people.
func (m *Manifest) ChangedPages() string {
	n := m.Pages.ChangedWhileReading
	percent := 0.0
	if m.Pages.Written > 0 {
		percent = 100 * float64(n) / float64(m.Pages.Written)
	}
	share := fmt.Sprintf("%.1f %%", percent)
	if n > 0 && percent < 0.05 {
		share = "below 0.1 %"
	}
	return fmt.Sprintf("%s (%s)", humanize.Comma(int64(n)), share)
}

// Exit codes of the program that are in a manifest.
const (
	ExitDone     = 0 // the dump is whole and verified
	ExitDegraded = 3 // it was written, but is not what it should be; see Warnings
)
