package guest

import (
	"context"

	"snap/phys"
)

// Bounds of modules, and what is the same in every UNICODE_STRING (ntdef.h).
const (
	unicodeMaximum  = 2
	maxModules      = 8192
	maxModuleName   = 2048 // bytes
	ntLoadAlignment = phys.PageSize
)

// Modules walks nt!PsLoadedModuleList in load order. On a broken list it
// returns what it read so far and an error.
func (s *System) Modules(ctx context.Context) ([]Module, error) {
	const what = "PsLoadedModuleList"
	l := &s.Space.arch.layout
	var out []Module
	err := walkList(ctx, s.Space, what, s.PsLoadedModuleList.Value, maxModules, func(entry phys.VirtAddr) error {
		r, err := readRecord(ctx, s.Space, "KLDR_DATA_TABLE_ENTRY", entry, l.ldrSize)
		if err != nil {
			return err
		}
		m := Module{
			Entry: entry, Base: r.va(l.ldrDllBase), Size: r.u32(l.ldrSizeOfImage), EntryPoint: r.va(l.ldrEntryPoint),
		}
		if end, ok := m.Base.Add(uint64(m.Size)); !ok || !s.Space.kernel(m.Base) || !s.Space.kernel(end) ||
			uint64(m.Base)%ntLoadAlignment != 0 || m.Size == 0 || m.Size > maxImageSize {
			return malformed(r.what, entry, "image of %#x bytes at %#x", m.Size, uint64(m.Base))
		}
		if m.Name, err = s.unicodeString(ctx, r, l.ldrBaseDllName); err != nil {
			return err
		}
		if m.Path, err = s.unicodeString(ctx, r, l.ldrFullDllName); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	})
	return out, err
}

// unicodeString returns the text of the UNICODE_STRING at off in r, and "" if
// the text isn't in memory: Windows pages names out.
func (s *System) unicodeString(ctx context.Context, r *record, off int) (string, error) {
	length, capacity, buffer := r.u16(off), r.u16(off+unicodeMaximum), r.va(off+r.arch.layout.unicodeBuffer)
	if r.err != nil {
		return "", r.err
	}
	if length == 0 {
		return "", nil
	}
	if length%2 != 0 || length > capacity || length > maxModuleName {
		return "", malformed("UNICODE_STRING", r.at+phys.VirtAddr(off), "length %d of %d", length, capacity)
	}
	if err := kernelPointer("UNICODE_STRING buffer", buffer, 2); err != nil {
		return "", err
	}
	text, err := readRecord(ctx, s.Space, "UNICODE_STRING buffer", buffer, int(length))
	if err != nil {
		return "", ctx.Err()
	}
	return wideString(text.b), nil
}
