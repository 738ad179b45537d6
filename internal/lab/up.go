package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

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
		PlainKDBG: s.PlainKDBG, KPTI: s.KPTI, UserMode: s.UserMode, LA57: s.LA57,
	}
	im, err := ntlab.Build(c)
	if err != nil {
		return nil, nil, err
	}
	o := boot.Options{
		Mode: s.Mode, Timekeeper: im.Truth.Processors[0].VCPU, DirectoryTableBase: im.Truth.DirectoryTableBase,
		FillPages: s.FillMiB << 20 / phys.PageSize, Mix: s.Mix, Seed: s.Seed,
		Panic: panicWrites(im),
	}
	if s.PublishHeader {
		if o.Note, err = im.PublishedNote(); err != nil {
			return nil, nil, err
		}
	}
	if s.Advert != 0 {
		if o.Advert, err = advertise(im, s, o.Timekeeper); err != nil {
			return nil, nil, err
		}
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
	if g.dir, g.starting, err = makeDir(ctx, c, s.Name); err == nil && s.Backing == HugeTLB {
		err = reserveHugepages(g.dir, s.MemoryMiB)
	}
	if err != nil {
		if g.dir != "" {
			err = errors.Join(err, returnHugepages(g.dir), os.RemoveAll(g.dir), g.starting.Close())
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
		if g.Spec.Backing == HugeTLB {
			err = fmt.Errorf("%w (libvirtd looks for hugetlbfs once, when it starts: does it run for longer than that is mounted?)", err)
		}
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
