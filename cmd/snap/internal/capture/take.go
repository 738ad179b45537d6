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
	"snap/hv"
	"snap/phys"
)

// Mode says what the guest does while its pages are read.
type Mode string

// Modes.
const (
	ModePause    Mode = "pause"    // it stands still: one point in time
	ModeSnapshot Mode = "snapshot" // it runs, and the hypervisor keeps one point in time
	ModeLive     Mode = "live"     // it runs: pages are from different times
	// ModeAuto is pause if its estimate fits, else snapshot if that can do no
	// harm, else none.
	ModeAuto Mode = "auto"
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

	// MaxPause is the longest that ModePause or ModeSnapshot may hold a running
	// guest still; 0 is no limit. A pause that is estimated to be longer is not begun, and one
	// that becomes longer is ended: errors.Is(err, ErrPauseTooLong).
	MaxPause time.Duration
	// Spool is how many bytes of the host's memory may be used to copy a running
	// guest's pages to, so that in ModePause all else happens when it runs again,
	// and in ModeLive pages are of times that are less far apart. Where they don't
	// fit, they are read as the dump is written. A snapshot is kept there too, and
	// isn't taken where it doesn't fit.
	Spool uint64
	// Saving, if it isn't nil, is called while a snapshot is being taken with the
	// bytes of the guest's memory that are saved, of so many.
	Saving func(done, total uint64)

	// Writing is called once, when everything is known and the pages are
	// about to be read.
	Writing func(*Result)

	caps settleCaps // of ModeLive; the zero value is the default
}

// Result is what a Job did.
type Result struct {
	Survey     *Survey // once Take has returned, the memory that it is of is closed
	Stats      *dump.Stats
	Mode       Mode // that was taken, never ModeAuto
	Mechanism  hv.Mechanism
	Consistent bool          // all pages are of one point in time
	Pause      time.Duration // how long snap held the guest still
	Estimate   PauseEstimate // of that, made before; zero if snap held nothing
	Spooled    bool          // pages were copied first: all else is of the copy
	Live       *Live         // how far pages are of different times; nil but in ModeLive, and until it is known
	Downtime   time.Duration // that the hypervisor held the guest still for a snapshot, as it reports
	Stall      time.Duration // the longest that the guest's own clock was seen to stand still during a snapshot
	StallSeen  bool          // Stall is known
	Held       bool          // snap holds the guest still right now
	Warnings   []string
}

// taking is a Job under way.
type taking struct {
	w     io.Writer
	mem   hv.Memory
	early *Survey // of the guest while it ran
	res   *Result
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
	res = &Result{Mode: j.Mode, Mechanism: mem.Mechanism(), Consistent: state == hv.StatePaused}
	if f, ok := mem.(hv.FallbackMemory); ok && f.WhyNotDirect() != nil {
		res.warn("memory is read through libvirt, which is slow: %v", f.WhyNotDirect())
	}
	t := &taking{w: w, mem: mem, early: early, res: res}
	if j.Mode == ModeLive {
		return res, j.takeLive(ctx, t)
	}
	if state, err = j.VM.State(ctx); err != nil {
		return nil, err
	}
	if state == hv.StatePaused {
		// No pause of ours: nothing to make short, and nothing to end.
		res.Mode = ModePause
		return res, j.hold(ctx, forOthers, res, func(ctx context.Context) error { return j.write(ctx, t) })
	}
	switch j.Mode {
	case ModeSnapshot:
		return res, j.takeSnapshot(ctx, t)
	case ModeAuto:
		res.Mode = ModePause
		return res, j.takeBest(ctx, t)
	}
	return res, j.takePaused(ctx, t)
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

// write surveys the guest as it is now and writes it out.
func (j *Job) write(ctx context.Context, t *taking) error {
	cpus, err := j.VM.Registers(ctx)
	if err != nil {
		return err
	}
	mem, closeMem, err := j.sameRAM(ctx, t.mem, t.res)
	if err != nil {
		return err
	}
	defer closeMem()
	return j.writeFrom(ctx, t, mem, cpus)
}

// writeFrom surveys mem and writes it out.
func (j *Job) writeFrom(ctx context.Context, t *taking, mem hv.Memory, cpus []phys.Registers) error {
	look := j.Look
	look.Earlier = t.early
	s, err := Look(ctx, mem, mem.RAM(), cpus, look)
	switch {
	case err == nil:
	case j.Mode == ModeLive && ctx.Err() == nil:
		s = t.early
		t.res.warn("the guest changed while it was looked at again: the header is of %v", err)
	default:
		return err
	}
	if !slices.Equal(t.early.System.PhysicalMemory.Value, s.System.PhysicalMemory.Value) {
		t.res.warn("the guest's memory changed while the dump began: the header was made again")
	}
	return writeSurvey(ctx, t.w, mem, s, t.res, j.Write, j.Writing)
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
	ram, err := j.VM.RAM(ctx)
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
