package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/trace"
	"strings"
	"time"

	"snap/dump"
	"snap/dump/verify"
	"snap/hv"
	"snap/manifest"
	"snap/store"
)

// ManifestOf returns the path of the manifest beside the dump at path.
func ManifestOf(path string) string { return path + manifest.Suffix }

// Take takes a dump of vm into the file name of place: it has that name only when
// it is whole and verified: read back, or on its way to a place that doesn't give back
// what it takes. The dump is taken if the error is nil,
// also if Result.Degraded; else there is no file. When Take returns, the guest
// does what it did before, unless errors.Is(err, hv.ErrStillPaused).
func Take(ctx context.Context, vm hv.VM, place store.Place, name string, o Options) (*Result, error) {
	man := newManifest(vm.Identity(), o.modeName(), &o)
	o.reserveAhead = true
	o.settle(place, name, man)
	p, err := prepare(ctx, vm, place, name, o)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		man.Warn("%s", w)
	}
	res, err := produce(ctx, place, name, &o, man, (*verify.Report).Unmeant, func(w io.Writer) (_ *Result, err error) {
		defer func() { err = errors.Join(err, p.Close()) }()
		return p.Session.dump(ctx, w, man)
	})
	return res, errors.Join(err, p.Close())
}

// produce makes a file of what write writes, verifies it, gives it its name and
// puts its account beside it. faults are the findings of a verification that make the
// dump a degraded one: of a dump that snap made all that it didn't mean, of another
// tool's, whose header is kept, what no reader can use.
func produce(ctx context.Context, place store.Place, name string, o *Options, man *manifest.Manifest, faults func(*verify.Report) []verify.Check, write func(io.Writer) (*Result, error)) (res *Result, err error) {
	if err := o.MayCreate(ctx, place, name); err != nil {
		return nil, err
	}
	f, err := place.Create(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Abort()) }()
	man.EncryptedTo = recipients(place)
	if o.Signer != nil {
		man.SignedBy = o.Signer.Fingerprint()
	}
	if res, err = write(f); err != nil {
		return nil, err
	}
	man.SHA256, man.Output, man.KeptUntil = f.Sum(), place.Path(name), store.KeptUntil(f).UTC()
	man.Bytes.Written = store.Stored(f, man.Bytes.Written)
	verified := res.verified
	if !o.inFlight {
		if verified, err = o.verify(ctx, f, man, res.proof, faults); err != nil {
			return nil, fmt.Errorf("verify the dump of %s before it gets its name: %w", man.Domain, err)
		}
	}
	trace.WithRegion(ctx, "commit", func() { err = f.Commit(ctx) })
	if err != nil {
		return nil, fmt.Errorf("put the dump of %s in its place: %w", man.Domain, err)
	}
	res.Manifest = man
	res.Degraded = !verified || degraded(man)
	man.Finished = time.Now().UTC()
	man.DurationMS = milliseconds(man.Finished.Sub(man.Started))
	if res.Degraded {
		man.ExitCode = manifest.ExitDegraded
	}
	if o.Manifest {
		if err := o.writeManifest(ctx, place, name, man); err != nil {
			return res, &ManifestError{Dump: man.Output, Err: err}
		}
	}
	return res, nil
}

// ManifestError says that a manifest can't be put beside its dump.
type ManifestError struct {
	Dump string // where the dump is, whole and verified; "" if none was begun
	Err  error
}

func (e *ManifestError) Error() string { return fmt.Sprintf("write the manifest: %v", e.Err) }

// Unwrap returns the cause.
func (e *ManifestError) Unwrap() error { return e.Err }

// writeManifest puts the account of the dump of that name beside it, and its signature,
// in clear also where the dump is encrypted: it has nothing of the guest's memory but what
// names and addresses tell.
func (o *Options) writeManifest(ctx context.Context, place store.Place, name string, man *manifest.Manifest) error {
	doc, err := man.JSON()
	if err != nil {
		return err
	}
	place = store.InClear(place)
	if err := store.WriteFile(ctx, place, name+manifest.Suffix, doc); err != nil || o.Signer == nil {
		return err
	}
	sig, err := o.Signer.Sign(doc)
	if err != nil {
		return err
	}
	return store.WriteFile(ctx, place, name+manifest.SignatureSuffix, sig)
}

// recipients names those to whom files in a place are encrypted.
func recipients(place store.Place) []string {
	var out []string
	for _, r := range store.Recipients(place) {
		out = append(out, r.String())
	}
	return out
}

// verify reads the file back, holds every byte against the proof and adds the verdict to the account: false if there are
// faults, or if a place that was to give it back doesn't. An error means that the file is not even what
// was meant to be written.
func (o *Options) verify(ctx context.Context, f store.File, man *manifest.Manifest, proof *dump.Proof, faults func(*verify.Report) []verify.Check) (ok bool, err error) {
	r, size, err := f.Reopen(ctx)
	if errors.Is(err, store.ErrWriteOnly) {
		man.Warn("%s can't be read back: check the dump with snap verify", placeName(man.Output))
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d, err := dump.NewFile(r, size)
	if err != nil {
		return false, err
	}
	defer d.Close()
	defer trace.StartRegion(ctx, "verify").End()
	progress := new(dump.Progress)
	o.tell(Event{Phase: PhaseVerify, Progress: progress})
	rep, err := verify.Verify(ctx, d, verify.Options{Progress: progress, Proof: proof})
	if err != nil {
		return false, err
	}
	ok, err = o.judge(rep, manifest.VerifiedReadBack, man, faults)
	man.Verify.ReadBack = store.Stored(f, uint64(size))
	return ok, err
}

// judge adds the verdict to the account, and how it came about: false if there are faults. An error
// means that the file is not even what was meant to be written.
func (o *Options) judge(rep *verify.Report, how manifest.Verified, man *manifest.Manifest, faults func(*verify.Report) []verify.Check) (ok bool, err error) {
	man.Verify = Verdict(rep)
	man.Verify.How = how
	found := faults(rep)
	for _, c := range found {
		if c.Whole {
			return false, fmt.Errorf("%s: %s", c.Name, c.Detail)
		}
		man.Warn("verification %s: %s: %s%s", outcome(&c), c.Name, c.Detail, matters(&c))
	}
	return len(found) == 0, nil
}

// outcome is what verification did by a finding: it failed only by one that no reader
// can do with.
func outcome(c *verify.Check) string {
	if c.Level == verify.LevelFail {
		return "failed"
	}
	return "found"
}

// matters says of a finding to whom it matters, if not to every reader.
func matters(c *verify.Check) string {
	switch c.Level {
	case verify.LevelLimit:
		return fmt.Sprintf(" (refused or misread by %s)", readers(c))
	case verify.LevelNote:
		return " (readers don't mind, but it is not as it was meant)"
	}
	return ""
}

func readers(c *verify.Check) string {
	var names []string
	for _, r := range c.Readers {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

// placeName is how a message speaks of a file.
func placeName(path string) string {
	if path == "-" {
		return "standard output"
	}
	return path
}
