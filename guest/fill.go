package guest

import (
	"context"
	"errors"
	"fmt"

	"snap/phys"
)

// freeBuild is the top of NtBuildNumber in kernels that aren't checked builds
// (PsGetVersion, wdm.h; QEMU, include/qemu/win_dump_defs.h).
const freeBuild = 0xF000_0000

// warn keeps what was odd.
func (s *System) warn(format string, args ...any) {
	s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...))
}

// fill reads what page table, kernel image and KDBG lead to, but for the
// processors. It fails only where there would be no dump worth the name without it.
func (s *System) fill(ctx context.Context) error {
	s.Arch = s.Space.arch
	s.Machine = phys.Know(s.Kernel.Machine, "kernel image")
	s.KernBase.Value = s.Kernel.Base
	if err := s.fillShared(ctx); err != nil {
		return err
	}
	if err := s.fillBuild(ctx); err != nil {
		return err
	}
	if len(s.KDBG.Block) > 0 {
		s.fillByKDBG(ctx)
	}
	return ctx.Err()
}

// fillByKDBG reads what the KDBG leads to, but for the processors.
func (s *System) fillByKDBG(ctx context.Context) {
	s.KdDebuggerDataBlock = phys.Know(s.KDBG.At, "kernel image, plain")
	if s.KDBG.Encoded {
		s.KdDebuggerDataBlock.From = "kernel image, decoded by known plaintext"
	}
	s.PsLoadedModuleList = s.KDBG.known(kdbgPsLoadedModuleList)
	s.PsActiveProcessHead = s.KDBG.known(kdbgPsActiveProcessHead)
	s.fillPFNDatabase(ctx)
	s.fillBugCheck(ctx)
	s.fillMemory(ctx)
}

// lack says in a few words what could not be read of what debuggers need, and in
// sentences what that means.
func (s *System) lack(what, format string, args ...any) {
	s.warn(format, args...)
	s.Lacks = append(s.Lacks, Lack{What: what, Means: s.Warnings[len(s.Warnings)-1]})
}

// fillShared reads KUSER_SHARED_DATA.
func (s *System) fillShared(ctx context.Context) error {
	const from = "KUSER_SHARED_DATA"
	k, err := readKUSER(ctx, s.Arch, s.Space)
	if err != nil {
		return err
	}
	if err := k.readTimes(ctx, s.Arch, s.Space.Anew()); err != nil {
		s.warn("a time can't be read, and is 0: %v", err)
	}
	s.KUSER = k
	s.SystemTime, s.SystemUpTime = phys.Know(k.SystemTime, from), phys.Know(k.InterruptTime, from)
	s.ProductType, s.SuiteMask = phys.Know(k.NtProductType, from), phys.Know(k.SuiteMask, from)
	s.BootID = phys.Know(k.BootID, from)
	return nil
}

// fillBuild reads NtBuildNumber.
func (s *System) fillBuild(ctx context.Context) error {
	at, err := s.Kernel.Export(ctx, "NtBuildNumber")
	if err == nil {
		var v uint32
		if v, err = readU32(ctx, s.Space, "NtBuildNumber", at); err == nil {
			s.NtBuildNumber = phys.Know(v, "export NtBuildNumber")
		}
	}
	if err == nil && s.Build() == 0 {
		err = malformed("NtBuildNumber", at, "build 0")
		s.warn("%v", err)
	}
	shared := s.KUSER.NtBuildNumber & 0xffff
	switch {
	case err == nil && shared != 0 && shared != s.Build():
		s.warn("NtBuildNumber is %d, but KUSER_SHARED_DATA says %d", s.Build(), shared)
	case err == nil:
	case shared != 0:
		s.NtBuildNumber = phys.Know(freeBuild|shared, "KUSER_SHARED_DATA")
	default:
		lab, labErr := s.labBuild(ctx)
		if labErr != nil {
			return errors.Join(fmt.Errorf("read the build number: %w", err), labErr)
		}
		s.NtBuildNumber = phys.Know(freeBuild|lab, "KDBG NtBuildLab")
	}
	return nil
}

// labBuild returns the number that NtBuildLab begins with, as in
// "3790.srv03_sp1_rtm.050324-1447".
func (s *System) labBuild(ctx context.Context) (uint32, error) {
	lab, ok := s.KDBG.Value("NtBuildLab")
	if !ok {
		return 0, fmt.Errorf("NtBuildLab: %w in the KDBG", ErrNotFound)
	}
	r, err := readRecord(ctx, s.Space, "NtBuildLab", phys.VirtAddr(lab), 8)
	if err != nil {
		return 0, err
	}
	var n uint32
	for i, c := range r.b {
		if c < '0' || c > '9' {
			if c != '.' || i == 0 || n > 0xffff {
				break
			}
			return n, nil
		}
		n = n*10 + uint32(c-'0')
	}
	return 0, malformed("NtBuildLab", r.at, "text %q does not begin with a build number", r.b)
}

// fillPFNDatabase reads MmPfnDatabase, whose variable's address is in the KDBG.
func (s *System) fillPFNDatabase(ctx context.Context) {
	s.MmPfnDatabaseAt = s.KDBG.va(kdbgMmPfnDatabase)
	v, err := readKernelVariable(ctx, s.Space, "MmPfnDatabase", s.MmPfnDatabaseAt)
	if err == nil {
		err = alignedPointer(s.Space, "MmPfnDatabase", v)
	}
	if err != nil {
		s.warn("%v", err)
		return
	}
	s.MmPfnDatabase = phys.Know(v, "KDBG MmPfnDatabase")
}

// fillBugCheck reads KiBugcheckData: code and parameters, as wide as pointers.
func (s *System) fillBugCheck(ctx context.Context) {
	const what = "KiBugcheckData"
	at := s.KDBG.va(kdbgKiBugcheckData)
	word := s.Space.arch.pointer
	err := alignedPointer(s.Space, what, at)
	var r *record
	if err == nil {
		r, err = readRecord(ctx, s.Space, what, at, word*len(s.BugCheck.Values()))
	}
	if err != nil {
		s.warn("%v", err)
		return
	}
	const from = "KDBG KiBugcheckData"
	s.BugCheck.Code = phys.Know(r.word(0), from)
	for i := range s.BugCheck.Parameter {
		s.BugCheck.Parameter[i] = phys.Know(r.word(word*(1+i)), from)
	}
}

// readKernelVariable reads a pointer variable at an address that the KDBG gave.
func readKernelVariable(ctx context.Context, mem VirtReader, what string, at phys.VirtAddr) (phys.VirtAddr, error) {
	if err := alignedPointer(mem, "address of "+what, at); err != nil {
		return 0, err
	}
	return readVA(ctx, mem, what, at)
}
