package capture

import (
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"snap/dump"
	"snap/exclude"
	"snap/hv"
)

// Options say how a dump is taken and what it is to be. The zero value is the
// default.
type Options struct {
	// Mode is how the guest's memory is acquired; nil is auto: the first of
	// Modes that auto may choose and whose estimate fits.
	Mode Mode
	// Mechanism is how memory is read; empty is hv.MechanismAuto.
	Mechanism hv.Mechanism

	// Tries is how often a running guest is analyzed before it counts as not
	// understood, as its lists and tables change under the reader; 0 is
	// DefaultTries.
	Tries int

	// MaxPause is the longest that a running guest may be held still; 0 is no
	// limit. A pause that is estimated to be longer is not begun, and one that
	// becomes longer is ended: errors.Is(err, ErrPauseTooLong).
	MaxPause time.Duration
	// MemoryCopy is how many bytes of the host's memory may be used to copy a
	// running guest's pages to, so that a pause is only for that, and in mode
	// live pages are of times that are less far apart. Where they don't fit,
	// they are read as the dump is written. A snapshot is kept there too, and
	// isn't taken where it doesn't fit.
	MemoryCopy uint64
	// NoSwap: the host swaps, and nothing of the guest may get on its swap disks. The
	// caller has locked this process's memory; mode snapshot, in which QEMU writes to
	// memory that isn't locked before it is whole, can't be taken.
	NoSwap bool
	// MaxChanged is how many pages may change while mode live reads them before
	// the dump counts as degraded; nil is DefaultMaxChanged.
	MaxChanged *ChangeLimit

	// Look says what the dump is to hold.
	Look LookOptions

	// Write says how it is written. Name, Progress, Metadata, Frame and Proof are
	// the package's own.
	Write dump.Options
	// CopyWorkers is how many copy the pages of a guest that stands still; 0 is as
	// many as write.
	CopyWorkers int
	// Manifest puts the account of the dump beside it, as the file's name and
	// ".json".
	Manifest bool
	// Signer, if not nil, signs that account; the signature lies beside it, with
	// ".sig" behind its name.
	Signer Signer
	// Tool is the program's name and version for the account.
	Tool string

	// Observer hears which phase begins, Log what was tried and decided; both
	// may be nil.
	Observer Observer
	Log      *slog.Logger

	caps         stabiliseCaps // the zero value is the default
	reserveAhead bool          // memory for a copy is got while the guest is looked at
	inFlight     bool          // what is written can't be read back: it is verified on its way
}

// Signer signs accounts.
type Signer interface {
	// Fingerprint names the key.
	Fingerprint() string
	// Sign returns the signature of an account, as it is stored.
	Sign(account []byte) ([]byte, error)
}

// LookOptions say what a dump is to hold. The zero value is the default.
type LookOptions struct {
	Comment   string // for the header
	Format    Format
	Exclusion Exclusion

	// AllRAM puts all of the guest's RAM into the dump, not only what Windows lists
	// as its own.
	AllRAM bool

	// Published is what the guest handed to its hypervisor for dumps (hv.PublishedOf).
	Published []byte

	// Earlier is an analysis of the same guest some time before, or nil.
	Earlier *Analysis

	// Progress, unless nil, counts what of RAM is scanned for Windows: the last
	// resort, where neither registers nor what Windows leaves in low memory lead to
	// it. Its Total is 0 until then.
	Progress *dump.Progress

	ofFile bool // the memory is a file's, of which nobody knows how it was read
}

// scanned is what hears of a scan.
func (o *LookOptions) scanned() func(done, total uint64) {
	p := o.Progress
	if p == nil {
		return nil
	}
	return func(done, total uint64) {
		p.Total.Store(total)
		p.Done.Store(done)
	}
}

// Exclusion says what is to stay out of a dump.
type Exclusion struct {
	Requests     []exclude.Request // the operator's
	NoAdvertised bool              // what drivers advertise is listed, not left out
	Limit        Limit
	// Require wants no dump if a page that was asked out would, or might, be in it:
	// errors.Is(err, ErrUnmet).
	Require bool
}

// Limit caps the pages that may stay out: above it there is no dump rather
// than one without most of the evidence. The zero value is exclude's default.
type Limit struct {
	Pages   uint64
	Percent uint64 // of the guest's pages; counts if Pages is 0
}

// pages returns the limit for a guest with total pages, 0 for the default.
func (l Limit) pages(total uint64) uint64 {
	if l.Pages == 0 && l.Percent > 0 {
		return max(1, total/100*l.Percent+total%100*l.Percent/100)
	}
	return l.Pages
}

// DefaultMaxChanged is the share of a dump's pages that may change in mode live.
const DefaultMaxChanged = 0.01

// ChangeLimit is how many pages may change. The zero value allows none.
type ChangeLimit struct {
	Pages uint64
	Share float64 // of the dump's pages, 0 to 1; counts if it is above 0
}

// of returns the limit for a dump of so many pages.
func (l ChangeLimit) of(pages uint64) uint64 {
	if l.Share > 0 {
		return uint64(math.Round(l.Share * float64(pages)))
	}
	return l.Pages
}

func (l ChangeLimit) String() string {
	if l.Share > 0 {
		return fmt.Sprintf("%.6g%%", l.Share*100)
	}
	return fmt.Sprint(l.Pages)
}

// DefaultTries is how often a running guest is analyzed.
const DefaultTries = 3

// Format chooses the layout of the dump.
type Format string

// Formats.
const (
	FormatAuto   Format = "auto"   // full while the runs fit its header, else bitmap
	FormatFull   Format = "full"   // DUMP_TYPE_FULL: runs
	FormatBitmap Format = "bitmap" // type 5: a bitmap, any number of holes
)

// Formats returns all formats, the default first.
func Formats() []Format { return []Format{FormatAuto, FormatFull, FormatBitmap} }

// maxChanged returns the limit on what changes in mode live.
func (o *Options) maxChanged() ChangeLimit {
	if o.MaxChanged == nil {
		return ChangeLimit{Share: DefaultMaxChanged}
	}
	return *o.MaxChanged
}

func (o *Options) workers() int {
	if o.Write.Workers > 0 {
		return o.Write.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// copyWorkers is how many copy pages of a guest that stands still.
func (o *Options) copyWorkers() int {
	if o.CopyWorkers > 0 {
		return o.CopyWorkers
	}
	return o.workers()
}

// writeOptions are those of a dump of which nothing is told.
func (o *Options) writeOptions() dump.Options {
	w := o.Write
	w.Progress, w.Metadata, w.Frame, w.Proof, w.PlainSum = nil, nil, nil, nil, false
	return w
}
