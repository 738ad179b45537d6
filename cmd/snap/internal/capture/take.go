package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/guest/phys"
	"snap/hv"
)

// Mode says what the guest does while its pages are read.
type Mode string

// Modes.
const (
	ModePause Mode = "pause" // it stands still: one point in time
	ModeLive  Mode = "live"  // it runs: pages are from different times
)

// surveyTries is how often a running guest is looked at before it counts as
// not understood: its lists and tables change under the reader.
const surveyTries = 3

// Job is one dump to take.
type Job struct {
	VM        hv.VM
	Mode      Mode
	Mechanism hv.Mechanism
	Look      Options
	Write     dump.Options
	Log       zerolog.Logger

	// Writing is called once, when everything is known and the pages are
	// about to be read.
	Writing func(*Result)
}

// Result is what a Job did.
type Result struct {
	Survey     *Survey
	Stats      *dump.Stats
	Mechanism  string
	Consistent bool          // all pages are of one point in time
	Pause      time.Duration // how long snap held the guest still
	Warnings   []string
}

// Take writes the dump to w. When it returns, the guest does what it did
// before, unless errors.Is(err, hv.ErrStillPaused).
func (j *Job) Take(ctx context.Context, w io.Writer) (res *Result, err error) {
	state, err := j.VM.State(ctx)
	if err != nil {
		return nil, err
	}
	mem, err := j.VM.OpenMemory(ctx, j.Mechanism)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()

	// A look at the running guest first: what snap can't dump is never paused.
	early, err := j.lookWhileRunning(ctx, mem)
	if err != nil {
		return nil, err
	}
	res = &Result{Mechanism: mem.Mechanism(), Consistent: state == hv.StatePaused}
	if j.Mode == ModePause {
		hold, err := j.VM.Pause(ctx)
		if err != nil {
			return nil, err
		}
		release := func() (err error) {
			res.Pause, err = hold.Release()
			return err
		}
		defer func() {
			if r := release(); r != nil && !errors.Is(err, hv.ErrStillPaused) {
				err = errors.Join(err, r)
			}
		}()
		res.Consistent = true
		return res, j.write(ctx, w, mem, early, res, release)
	}
	return res, j.write(ctx, w, mem, early, res, func() error { return nil })
}

// lookWhileRunning surveys a guest that may change underneath.
func (j *Job) lookWhileRunning(ctx context.Context, mem hv.Memory) (*Survey, error) {
	for try := 1; ; try++ {
		cpus, err := j.VM.Registers(ctx)
		if err != nil {
			return nil, err
		}
		s, err := Look(ctx, mem, mem.RAM(), cpus, j.Look)
		if err == nil || errors.Is(err, exclude.ErrTooMany) || try == surveyTries || ctx.Err() != nil || errors.Is(err, guest.ErrFiveLevel) {
			return s, err
		}
		j.Log.Debug().Err(err).Int("try", try).Msg("look at the guest again")
	}
}

// write surveys the guest as it is now and writes it out. release lets the
// guest go as soon as its last page was read.
func (j *Job) write(ctx context.Context, w io.Writer, mem hv.Memory, early *Survey, res *Result, release func() error) error {
	cpus, err := j.VM.Registers(ctx)
	if err != nil {
		return err
	}
	mem, closeMem, err := j.sameRAM(ctx, mem, res)
	if err != nil {
		return err
	}
	defer closeMem()
	look := j.Look
	look.Earlier = early
	s, err := Look(ctx, mem, mem.RAM(), cpus, look)
	switch {
	case err == nil:
	case j.Mode == ModeLive && ctx.Err() == nil:
		s = early
		res.warn("the guest changed while it was looked at again: the header is of %v", err)
	default:
		return err
	}
	if !slices.Equal(early.System.PhysicalMemory, s.System.PhysicalMemory) {
		res.warn("the guest's memory changed while the dump began: the header was made again")
	}
	if err := writeSurvey(ctx, w, mem, s, res, j.Write, j.Writing); err != nil {
		return err
	}
	return release()
}

// writeSurvey writes the dump that s describes from the memory that it was
// made of.
func writeSurvey(ctx context.Context, w io.Writer, mem hv.Memory, s *Survey, res *Result, o dump.Options, writing func(*Result)) error {
	pages, err := phys.NewRuns(s.Plan.Runs...)
	if err != nil {
		return err
	}
	set, known, err := mem.Populated(ctx)
	if err != nil {
		return err
	}
	if known {
		// Not nil even if empty: nil would mean that nothing is known.
		s.Plan.Populated = append(phys.Runs{}, set.Intersect(pages)...)
	}
	res.Survey = s
	res.Warnings = append(slices.Clone(s.Warnings), res.Warnings...)
	if writing != nil {
		writing(res)
	}
	res.Stats, err = dump.Write(ctx, w, mem, s.Plan, o)
	return err
}

// sameRAM returns mem, or the memory opened anew where the guest's RAM map is
// no longer that of mem.
func (j *Job) sameRAM(ctx context.Context, mem hv.Memory, res *Result) (hv.Memory, func(), error) {
	mapper, ok := j.VM.(interface {
		RAM(context.Context) (phys.Runs, error)
	})
	if !ok {
		return mem, func() {}, nil
	}
	ram, err := mapper.RAM(ctx)
	if err != nil {
		return nil, nil, err
	}
	if slices.Equal(ram, mem.RAM()) {
		return mem, func() {}, nil
	}
	res.warn("the domain's RAM map changed while the dump began: it was read again")
	again, err := j.VM.OpenMemory(ctx, j.Mechanism)
	if err != nil {
		return nil, nil, err
	}
	return again, func() { _ = again.Close() }, nil
}

func (r *Result) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}
