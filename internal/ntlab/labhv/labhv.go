// Package labhv is the hypervisor behind lab:///: guests that internal/ntlab
// builds in this process, so that every command can be tried where there is no
// hypervisor at all.
package labhv

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// URI is the connection that the guests are on.
const URI = "lab:///"

// Guest is a guest that can be opened.
type Guest struct {
	Name   string
	Memory uint64 // bytes
	CPUs   int
	About  string // what is special about it

	config ntlab.Config
	dress  func(*ntlab.Image) error // loads drivers, nil for none
	other  bool                     // it runs something that isn't Windows
}

// variants are what may follow a profile's name, where the profile knows it.
var variants = []struct {
	suffix, about string
	set           func(*ntlab.Config)
	dress         func(*ntlab.Image) error
}{
	{"", "as it boots by default", func(*ntlab.Config) {}, nil},
	{"-plain", "a debugger was enabled at boot: the KDBG is not encoded", func(c *ntlab.Config) { c.PlainKDBG = true }, nil},
	{"-user", "stopped in user mode, in processes other than System", func(c *ntlab.Config) { c.UserMode = true }, nil},
	{"-kpti", "stopped in user mode under KVA shadow", func(c *ntlab.Config) { c.UserMode, c.KPTI = true, true }, nil},
	{"-bugcheck", "showing a blue screen", func(c *ntlab.Config) {
		c.BugCheck = [5]uint64{0xE2, 0, 0, 0, 0} // MANUALLY_INITIATED_CRASH
	}, nil},
	{"-vbs", "runs a secure kernel with Credential Guard beside it", func(c *ntlab.Config) { c.VBS = true }, nil},
	{"-advert", "a driver asks to leave pages out, one of which it can't have; another only has a callback", func(*ntlab.Config) {}, advertise},
	{"-hostile", "drivers ask to leave out what a dump needs, and worse", func(*ntlab.Config) {}, hostile},
	{"-secret", "a driver asks to leave out pages of every kind that page tables lead to", func(*ntlab.Config) {}, secret},
	{"-lost", "a driver asks to leave out pages that page tables don't lead to", func(*ntlab.Config) {}, lost},
	{"-hiding", "Windows' list of memory names half of it", func(*ntlab.Config) {}, hiding},
	{"-greedy", "a driver asks to leave out more than half of memory", func(*ntlab.Config) {}, greedy},
}

// narrow are the guests of 32-bit Windows.
var narrow = []Guest{
	{Name: "winxp-x86", About: "32-bit Windows XP, without PAE", config: ntlab.Config{Profile: "x86-2600", NoPAE: true}},
	{Name: "ws2003-x86-3gb", About: "32-bit Windows Server 2003 with 3 GiB for programs (/3GB)", config: ntlab.Config{Profile: "x86-3790", UserSpace3GB: true}},
	{Name: "win7-x86", About: "32-bit Windows 7 with PAE, stopped in user mode", config: ntlab.Config{Profile: "x86-7601", UserMode: true}},
	{Name: "win10-x86", About: "32-bit Windows 10", config: ntlab.Config{Profile: "x86-19041"}},
	{
		Name: "win10-x86-kpti", About: "32-bit Windows 10, stopped in user mode under KVA shadow",
		config: ntlab.Config{Profile: "x86-19041", UserMode: true, KPTI: true},
	},
}

// guests is every guest there is.
var guests = sync.OnceValue(func() []Guest {
	var out []Guest
	for _, profile := range ntlab.Profiles() {
		for _, v := range variants {
			c := ntlab.Config{Profile: profile, Seed: 1, MonitorRegisters: true}
			v.set(&c)
			if !c.Possible() {
				continue
			}
			out = append(out, Guest{
				Name: profile + v.suffix, Memory: ntlab.DefaultMemory, CPUs: ntlab.DefaultCPUs, About: v.about, config: c,
				dress: v.dress,
			})
		}
	}
	for _, g := range narrow {
		g.Memory, g.CPUs = ntlab.DefaultMemory, 2
		g.config.Seed, g.config.CPUs, g.config.MonitorRegisters = 1, g.CPUs, true
		out = append(out, g)
	}
	return append(out, Guest{
		Name: "not-windows", Memory: ntlab.DefaultMemory, CPUs: ntlab.DefaultCPUs,
		About: "runs something that isn't Windows", config: ntlab.Config{Seed: 1, MonitorRegisters: true}, other: true,
	})
})

// What the guests' programs are made out to have left in memory.
const fillBytes = 96 << 20

var fillMix = ntlab.Mix{Zero: 4, Text: 2, Structures: 3, Random: 1}

// List returns the guests, in a fixed order.
func List() []Guest { return slices.Clone(guests()) }

// VM is an open guest. It is always running until it is paused; the state is
// the VM's own, so that opening the guest again gives one that runs.
type VM struct {
	guest Guest
	image *ntlab.Image

	mu     sync.Mutex
	paused bool
	closed bool
}

var _ hv.VM = (*VM)(nil)

// Open builds a guest by name. An unknown name is an hv.ErrNoDomain.
func Open(name string) (*VM, error) {
	all := guests()
	i := slices.IndexFunc(all, func(g Guest) bool { return g.Name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, g := range all {
			names[i] = g.Name
		}
		return nil, fmt.Errorf("open lab guest %q: %w; there are %s", name, hv.ErrNoDomain, strings.Join(names, ", "))
	}
	construct := ntlab.Build
	if all[i].other {
		construct = ntlab.BuildOther
	}
	im, err := construct(all[i].config)
	if err != nil {
		return nil, fmt.Errorf("open lab guest %q: %w", name, err)
	}
	if all[i].dress != nil {
		if err := all[i].dress(im); err != nil {
			return nil, fmt.Errorf("open lab guest %q: %w", name, err)
		}
	}
	room := im.Free().Pages() << phys.PageShift
	if err := im.Fill(min(fillBytes, room/2), fillMix); err != nil {
		return nil, fmt.Errorf("open lab guest %q: %w", name, err)
	}
	return &VM{guest: all[i], image: im}, nil
}

// Image returns the guest's memory for tests that change it.
func (v *VM) Image() *ntlab.Image { return v.image }

// Identity implements hv.Source.
func (v *VM) Identity() hv.Identity {
	h := sha256.Sum256([]byte(v.guest.Name))
	h[6], h[8] = h[6]&0x0F|0x40, h[8]&0x3F|0x80 // version 4, as random ones are (RFC 9562 5.4)
	return hv.Identity{
		Name: v.guest.Name, ID: 1, Host: "lab", URI: URI,
		UUID: fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16]),
	}
}

// Registers implements hv.Source.
func (v *VM) Registers(ctx context.Context) ([]phys.Registers, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("registers of lab guest %s: %w", v.guest.Name, err)
	}
	return slices.Clone(v.image.Registers()), nil
}

// State implements hv.VM.
func (v *VM) State(ctx context.Context) (hv.State, error) {
	if err := ctx.Err(); err != nil {
		return hv.StateOther, fmt.Errorf("state of lab guest %s: %w", v.guest.Name, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.closed:
		return hv.StateOff, nil
	case v.paused:
		return hv.StatePaused, nil
	}
	return hv.StateRunning, nil
}

// Pause implements hv.VM.
func (v *VM) Pause(ctx context.Context) (hv.Hold, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("pause lab guest %s: %w", v.guest.Name, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	h := &hold{vm: v, ours: !v.paused, since: time.Now()}
	v.paused = true
	return h, nil
}

// RAM implements hv.VM.
func (v *VM) RAM(context.Context) (phys.Runs, error) { return v.image.RAM(), nil }

// CheckJob implements hv.VM: nothing else is ever at work on the guest.
func (v *VM) CheckJob(context.Context) error { return nil }

// Warnings implements hv.VM.
func (v *VM) Warnings(context.Context) ([]string, error) { return nil, nil }

// Close implements hv.Source.
func (v *VM) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	return nil
}

// hold is a pause that can be undone once.
type hold struct {
	vm    *VM
	ours  bool
	since time.Time
	once  sync.Once
	stood time.Duration
}

// Progressed implements hv.Hold: nobody keeps the pause.
func (h *hold) Progressed() {}

// Release implements hv.Hold.
func (h *hold) Release() (time.Duration, error) {
	h.once.Do(func() {
		if !h.ours {
			return
		}
		h.vm.mu.Lock()
		h.vm.paused = false
		h.vm.mu.Unlock()
		h.stood = time.Since(h.since)
	})
	return h.stood, nil
}
