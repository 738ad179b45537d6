package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"snap/guest/phys"
	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
)

// Guest is a domain of the lab.
type Guest struct {
	*Connection

	Name string // of the domain
	Spec Spec

	// Image is the guest's memory as it was loaded, and Boot what runs in it;
	// nil and empty for guests that aren't lab images. With Spec.UserMode the
	// image's registers are not those of vCPU 0.
	Image *ntlab.Image
	Boot  boot.Info

	dir string
}

// Up starts a lab image and returns when all its processors run in the kernel.
func Up(ctx context.Context, s Spec) (*Guest, error) {
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	im, p, err := program(s)
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, err)
	}
	g, err := prepare(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, err)
	}
	g.Image, g.Boot = im, p.Info
	kernel := filepath.Join(g.dir, "guest.elf")
	if err := errors.Join(writeProgram(kernel, p), g.start(ctx, files{kernel: kernel}, boot.ReadyLine)); err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, errors.Join(err, g.Down()))
	}
	return g, nil
}

// program builds the guest's memory and what runs in it.
func program(s Spec) (*ntlab.Image, *boot.Program, error) {
	c := ntlab.Config{
		Profile: s.Profile, Seed: s.Seed, Memory: s.MemoryMiB << 20, CPUs: s.CPUs, Machine: s.Machine,
		PlainKDBG: s.PlainKDBG, KPTI: s.KPTI, UserMode: s.UserMode,
	}
	im, err := ntlab.Build(c)
	if err != nil {
		return nil, nil, err
	}
	o := boot.Options{
		Mode: s.Mode, Timekeeper: im.Truth.Processors[0].VCPU, DirectoryTableBase: im.Truth.DirectoryTableBase,
		FillPages: s.FillMiB << 20 / phys.PageSize, Mix: s.Mix, Seed: s.Seed,
	}
	if !s.UserMode {
		p, err := boot.Prepare(im, o)
		return im, p, err
	}
	// The guest must say that it is ready from the kernel: vCPU 0 is as it
	// would be in the same guest without user mode.
	c.UserMode = false
	kernel, err := ntlab.Build(c)
	if err != nil {
		return nil, nil, err
	}
	regs := slices.Clone(im.Registers())
	regs[0] = kernel.Registers()[0]
	o.Timekeeper = 0
	p, err := boot.Prepare(mixed{im, regs}, o)
	return im, p, err
}

// mixed is an image whose processors are elsewhere.
type mixed struct {
	*ntlab.Image
	regs []phys.Registers
}

func (m mixed) Registers() []phys.Registers { return m.regs }

func writeProgram(path string, p *boot.Program) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(p.WriteELF(w), w.Flush(), f.Chmod(0o644), f.Close())
}

// Off defines a domain that doesn't run.
func Off(ctx context.Context, s Spec) (*Guest, error) {
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	g, err := prepare(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, err)
	}
	path, err := g.writeXML(files{})
	if err == nil {
		_, err = g.Virsh(ctx, "define", path)
	}
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, errors.Join(err, g.Down()))
	}
	return g, nil
}

// prepare connects and makes the guest's folder.
func prepare(ctx context.Context, s Spec) (*Guest, error) {
	c, err := Open(ctx, s.Connect)
	if err != nil {
		return nil, err
	}
	g := &Guest{Connection: c, Name: Prefix + s.Name, Spec: s}
	if g.dir, err = makeDir(c, s.Name); err == nil && s.Backing == HugeTLB {
		err = reserveHugepages(g.dir, s.MemoryMiB)
	}
	if err != nil {
		if g.dir != "" {
			err = errors.Join(err, returnHugepages(g.dir), os.RemoveAll(g.dir))
		}
		return nil, errors.Join(err, c.Close())
	}
	return g, nil
}

// start creates the domain and waits for the line that says that it is ready.
func (g *Guest) start(ctx context.Context, f files, ready string) error {
	w, err := watch(g.dir, "serial")
	if err != nil {
		return err
	}
	defer w.close()
	f.serial = filepath.Join(g.dir, "serial")
	path, err := g.writeXML(f)
	if err != nil {
		return err
	}
	if _, err := g.Virsh(ctx, "create", path); err != nil {
		return err
	}
	alive, stop, err := g.whileAlive(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := w.line(alive, ready); err != nil {
		return fmt.Errorf("wait for the guest: %w", err)
	}
	return nil
}

// PID returns the process id of the guest's QEMU.
func (g *Guest) PID() (int, error) {
	dir := "/run/libvirt/qemu"
	if g.Kind == Session {
		dir = filepath.Join(filepath.Dir(g.Socket), "qemu", "run")
	}
	b, err := os.ReadFile(filepath.Join(dir, g.Name+".pid"))
	if err != nil {
		return 0, fmt.Errorf("QEMU of %s: %w", g.Name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// errEnded says that a guest powered off, reset itself or crashed.
var errEnded = errors.New("the guest has ended")

// whileAlive returns a context that ends, with errEnded as its cause, when
// the guest's QEMU does.
func (g *Guest) whileAlive(ctx context.Context) (context.Context, func(), error) {
	pid, err := g.PID()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errEnded
	}
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch QEMU of %s: %w", g.Name, errors.Join(errEnded, err))
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	conn, err := process.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, process.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		first := true // the descriptor turns readable when the process ends
		err := conn.Read(func(uintptr) bool {
			ended := !first
			first = false
			return ended
		})
		if err == nil {
			cancel(errEnded)
		}
	}()
	return ctx, func() { cancel(nil); _ = process.Close() }, nil
}

func (g *Guest) writeXML(f files) (string, error) {
	if f.serial == "" {
		f.serial = filepath.Join(g.dir, "serial")
	}
	doc, err := domainXML(&g.Spec, f)
	if err != nil {
		return "", err
	}
	path := filepath.Join(g.dir, "domain.xml")
	return path, os.WriteFile(path, []byte(doc), 0o644)
}

// Dir is a folder of the guest's that the connection's user may write to.
func (g *Guest) Dir() string { return g.dir }

// Heartbeats reads the counter of every processor through QEMU's monitor.
func (g *Guest) Heartbeats(ctx context.Context) ([]uint64, error) {
	var out []uint64
	for _, v := range g.Boot.VCPUs {
		n, err := g.Qword(ctx, v.Heartbeat)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// Qword reads 8 bytes of the guest's memory through QEMU's monitor.
func (g *Guest) Qword(ctx context.Context, at phys.Addr) (uint64, error) {
	text, err := g.Virsh(ctx, "qemu-monitor-command", g.Name, "--hmp", fmt.Sprintf("xp /1gx %#x", uint64(at)))
	if err != nil {
		return 0, err
	}
	_, value, ok := strings.Cut(text, ": ")
	if !ok {
		return 0, fmt.Errorf("read %#x of %s: monitor said %q", uint64(at), g.Name, text)
	}
	return strconv.ParseUint(strings.TrimSpace(value), 0, 64)
}

// Close is Down.
func (g *Guest) Close() error { return g.Down() }

// Down ends the guest and removes all that belongs to it.
func (g *Guest) Down() error {
	return down(g.Connection, g.Name, g.dir)
}

// Down ends the guest called name, without Prefix, that another process has
// started.
func Down(ctx context.Context, k Kind, name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("no lab guest can have the name %q", name)
	}
	c, err := Open(ctx, k)
	if err != nil {
		return err
	}
	dir, err := c.dir(name)
	if err == nil {
		_, err = os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("no lab guest %s on %s", name, c.URI)
		}
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	return down(c, Prefix+name, dir)
}

// down ends a domain, then removes what belongs to it.
func down(c *Connection, domain, dir string) error {
	if err := remove(c, domain); err != nil {
		return errors.Join(err, c.Close()) // its folder says that there is something left
	}
	return errors.Join(returnHugepages(dir), os.RemoveAll(dir), c.Close())
}

// remove destroys and undefines a domain, in so far as it exists.
func remove(c *Connection, name string) error {
	ctx := context.Background() // cleaning up is not cut short
	for _, step := range []struct {
		flag string
		do   []string
	}{
		{"--state-running", []string{"destroy", name}},
		{"--state-paused", []string{"destroy", name}},
		{"--state-other", []string{"destroy", name}},
		{"--persistent", []string{"undefine", name}},
	} {
		names, err := c.Virsh(ctx, "list", "--all", "--name", step.flag)
		if err != nil {
			return err
		}
		for _, n := range strings.Fields(names) {
			if n != name {
				continue
			}
			if _, err := c.Virsh(ctx, step.do...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Names returns the names, without Prefix, of the guests that have left
// something on this host: those that Down ends.
func Names(k Kind) ([]string, error) {
	c := &Connection{Kind: k}
	dir, err := c.dir("")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}

// List returns the names of the lab's domains, without Prefix, and the state
// of each.
func List(ctx context.Context, k Kind) (map[string]string, error) {
	c, err := Open(ctx, k)
	if err != nil {
		return nil, err
	}
	out, err := list(ctx, c)
	return out, errors.Join(err, c.Close())
}

func list(ctx context.Context, c *Connection) (map[string]string, error) {
	names, err := c.Virsh(ctx, "list", "--all", "--name")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, n := range strings.Fields(names) {
		short, ok := strings.CutPrefix(n, Prefix)
		if !ok {
			continue
		}
		state, err := c.Virsh(ctx, "domstate", n)
		if err != nil {
			return nil, err
		}
		out[short] = strings.TrimSpace(state)
	}
	return out, nil
}
