package capture

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// imageVM is a lab image as a domain that is running until it is paused.
type imageVM struct {
	im      *ntlab.Image
	paused  atomic.Bool
	holds   int      // pauses so far
	state   hv.State // that it is in, empty for running or paused
	crashes bool     // before it can be paused
	reads   atomic.Int64

	releaseErr error // of a hold's Release

	// What happens to the guest, if not nil.
	onPause   func()
	onRelease func()
	onRead    func(ctx context.Context, p []byte, at phys.Addr) error // an error is that of the read
}

// newGuest builds a small Windows guest that the test may change.
func newGuest(t testing.TB, c ntlab.Config) *imageVM {
	t.Helper()
	if c.Memory == 0 {
		c.Memory = 96 << 20
	}
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	return &imageVM{im: im}
}

func (v *imageVM) Identity() hv.Identity { return hv.Identity{Name: "image"} }

func (v *imageVM) Registers(context.Context) ([]phys.Registers, error) { return v.im.Registers(), nil }

func (v *imageVM) OpenMemory(context.Context, hv.Mechanism) (hv.Memory, error) {
	return imageMemory{v.im, v}, nil
}

func (v *imageVM) State(context.Context) (hv.State, error) {
	switch {
	case v.state != "":
		return v.state, nil
	case v.paused.Load():
		return hv.StatePaused, nil
	}
	return hv.StateRunning, nil
}

func (v *imageVM) Pause(context.Context) (hv.Hold, error) {
	if v.crashes {
		v.state = hv.StateCrashed
	}
	if v.paused.Load() || v.state.Still() {
		return &imageHold{}, nil
	}
	v.paused.Store(true)
	v.holds++
	if v.onPause != nil {
		v.onPause()
	}
	return &imageHold{v}, nil
}

func (v *imageVM) RAM(context.Context) (phys.Runs, error) { return v.im.RAM(), nil }

func (v *imageVM) CheckJob(context.Context) error { return nil }

func (v *imageVM) Warnings(context.Context) ([]string, error) { return nil, nil }

func (v *imageVM) Close() error { return nil }

type imageHold struct{ vm *imageVM }

func (h *imageHold) Progressed() {}

func (h *imageHold) Release() (time.Duration, error) {
	if h.vm == nil {
		return 0, nil
	}
	if h.vm.paused.Load() && h.vm.onRelease != nil {
		h.vm.onRelease()
	}
	h.vm.paused.Store(false)
	return time.Millisecond, h.vm.releaseErr
}

type imageMemory struct {
	*ntlab.Image
	vm *imageVM
}

func (m imageMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	m.vm.reads.Add(1)
	if m.vm.onRead != nil {
		if err := m.vm.onRead(ctx, p, at); err != nil {
			return err
		}
	}
	return m.Image.ReadPhys(ctx, p, at)
}

func (imageMemory) Mechanism() hv.Mechanism { return "image" }

func (m imageMemory) Populated(context.Context) (phys.Runs, bool, error) {
	return m.Image.Populated(), true, nil
}

func (imageMemory) Close() error { return nil }
