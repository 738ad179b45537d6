package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"snap/phys"
)

// loadedModule is an entry of nt!PsLoadedModuleList, read for what it is good
// for: a bad name doesn't hide the modules behind it.
type loadedModule struct {
	entry phys.VirtAddr
	base  phys.VirtAddr
	size  uint32
	name  string
	err   error // why base and size can't be used
}

// end returns the first address after the module.
func (m *loadedModule) end() phys.VirtAddr { return m.base + phys.VirtAddr(m.size) }

// eachModule calls visit with every module until that fails. Other than
// Modules it goes on after an entry that makes no sense. It reads what a
// debugger reads of an entry: the entry and the texts of both names.
func (s *System) eachModule(ctx context.Context, visit func(m loadedModule) error) error {
	return walkList(ctx, s.Space, "PsLoadedModuleList", s.PsLoadedModuleList.Value, maxModules, func(entry phys.VirtAddr) error {
		m := s.readModule(ctx, entry)
		if err := ctx.Err(); err != nil {
			return err
		}
		return visit(m)
	})
}

func (s *System) readModule(ctx context.Context, entry phys.VirtAddr) loadedModule {
	m, l := loadedModule{entry: entry}, &s.Space.arch.layout
	r, err := readRecord(ctx, s.Space, "KLDR_DATA_TABLE_ENTRY", entry, l.ldrSize)
	if err != nil {
		m.err, m.name = err, fmt.Sprintf("module entry %#x", uint64(entry))
		return m
	}
	m.base, m.size = r.va(l.ldrDllBase), r.u32(l.ldrSizeOfImage)
	if end, ok := m.base.Add(uint64(m.size)); !ok || !s.Space.kernel(m.base) || !s.Space.kernel(end) ||
		m.size == 0 || m.size > maxImageSize {
		m.err = malformed(r.what, entry, "image of %#x bytes at %#x", m.size, uint64(m.base))
	}
	// A name that can't be had is one that isn't there.
	name, _ := s.unicodeString(ctx, r, l.ldrBaseDllName)
	path, _ := s.unicodeString(ctx, r, l.ldrFullDllName)
	if name == "" {
		name = path[strings.LastIndexByte(path, '\\')+1:]
	}
	if name == "" {
		name = fmt.Sprintf("module at %#x", uint64(m.base))
	}
	m.name = cleanName(name)
	return m
}

// maxAdvertName bounds a name in characters.
const maxAdvertName = 128

// cleanName makes a text from the guest fit for lists and terminals: what
// doesn't print, such as control characters and those that turn the direction
// of writing around, becomes U+FFFD, and the text ends after maxAdvertName
// characters.
func cleanName(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxAdvertName {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// run looks at the modules, and then at those without a table once more.
func (a *advertReader) run(ctx context.Context) {
	var list []loadedModule
	err := a.sys.eachModule(ctx, func(m loadedModule) error {
		list = append(list, m) // maxModules at most
		return nil
	})
	a.prefetchHeads(ctx, list)
	for _, m := range list {
		if m.err != nil {
			a.problem(m.name, m.entry, m.err.Error())
			continue
		}
		if a.seen[m.base] {
			continue // a list can lead to one image any number of times
		}
		if len(a.seen) >= maxAdvertModules {
			a.problem("", a.sys.PsLoadedModuleList.Value, fmt.Sprintf("only the first %d modules are looked at", maxAdvertModules))
			err = nil
			break
		}
		a.seen[m.base] = true
		a.modules = append(a.modules, a.module(ctx, m))
		if ctx.Err() != nil {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		a.problem("", a.sys.PsLoadedModuleList.Value, err.Error())
	}
	a.findSilent(ctx)
}

// prefetchHeads announces the headers of modules.
func (a *advertReader) prefetchHeads(ctx context.Context, list []loadedModule) {
	phys.Prefetch(ctx, a.sys.Space.mem, func(yield func(phys.Run) bool) {
		for _, m := range list {
			if m.err != nil {
				continue
			}
			for r := range a.sys.Space.resident(ctx, m.base, phys.PageSize) {
				if !yield(r) {
					return
				}
			}
		}
	})
}

// advertModule is a module that was looked at.
type advertModule struct {
	loadedModule
	image      *Image // nil if its headers can't be read
	advertises bool   // or tries to
}

// module reads the tables of one module.
func (a *advertReader) module(ctx context.Context, m loadedModule) *advertModule {
	out := &advertModule{loadedModule: m}
	im, err := ReadImage(ctx, a.sys.Space, m.base)
	var at phys.VirtAddr
	if err == nil {
		out.image = im
		at, err = im.Export(ctx, advertSymbol)
	}
	switch {
	case err == nil:
		out.advertises = true
		a.chain(ctx, m.name, at)
	case errors.Is(err, errForwarded):
		out.advertises = true
		a.problem(m.name, m.base, advertSymbol+": "+err.Error())
	case errors.Is(err, ErrNotFound) || ctx.Err() != nil:
	case errors.Is(err, ErrNotPresent):
		a.out.Unread = append(a.out.Unread, m.name)
	default:
		a.problem(m.name, m.base, err.Error())
	}
	return out
}

func (a *advertReader) problem(module string, at phys.VirtAddr, reason string) {
	a.out.Problems = append(a.out.Problems, AdvertProblem{Module: module, At: at, Reason: reason})
}
