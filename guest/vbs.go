package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// VBS is what there is to see of virtualization-based security: a Windows that runs a
// hypervisor of its own and, beside the kernel that this package reads (VTL0), a
// secure kernel (VTL1), whose memory is the guest's too but out of Windows' own reach.
// A value without an origin was not seen, which proves nothing.
type VBS struct {
	// SecureKernel: a secure kernel runs.
	SecureKernel phys.Known[bool]
	// CredentialGuard: it keeps the secrets of those who are logged on.
	CredentialGuard phys.Known[bool]
	// InHypervisor are the indexes of the vCPUs that were in the hypervisor.
	InHypervisor []int
}

// Seen reports whether anything of it was seen.
func (v *VBS) Seen() bool { return v.SecureKernel.Value || len(v.InHypervisor) > 0 }

// Processes that stand for what runs in VTL1, by their ImageFileName (Windows
// Internals; Microsoft Learn, "Isolated User Mode (IUM) Processes" and "How Credential
// Guard works"). The first is made by the kernel and has no PEB, as no process has that
// a program with this name would be; the second is a program that is trusted by the
// first only.
const (
	secureSystem = "Secure System"
	isolatedLSA  = "LsaIso.exe"
)

// FindVBS looks for virtualization-based security: for its processes among those given,
// which are what Processes returned, also if it failed, and for processors in a
// hypervisor that runs inside the guest. cpus are the registers that were given to
// Discover.
func (s *System) FindVBS(ctx context.Context, cpus []phys.Registers, processes []Process) VBS {
	var v VBS
	for i := range cpus {
		if s.inHypervisor(ctx, &cpus[i]) {
			v.InHypervisor = append(v.InHypervisor, cpus[i].CPU)
		}
	}
	isolated := phys.Known[bool]{}
	for _, p := range processes {
		switch {
		case p.Name == secureSystem && s.withoutPEB(ctx, p.EPROCESS):
			v.SecureKernel = phys.Know(true, fmt.Sprintf("process %s, PID %d", p.Name, p.PID))
		case p.Name == isolatedLSA:
			isolated = phys.Know(true, fmt.Sprintf("process %s, PID %d", p.Name, p.PID))
		}
	}
	if v.SecureKernel.Value {
		v.CredentialGuard = isolated
	}
	return v
}

// withoutPEB reports whether a process has no PEB. A KDBG that doesn't say where an
// EPROCESS has it is of a Windows that is too old for VBS.
func (s *System) withoutPEB(ctx context.Context, eprocess phys.VirtAddr) bool {
	off := s.KDBG.offset(kdbgOffsetEprocessPeb, 0)
	if off == 0 {
		return false
	}
	peb, err := readVA(ctx, s.Space, "Peb", eprocess+phys.VirtAddr(off))
	return err == nil && peb == 0
}

// inHypervisor reports whether a processor runs a hypervisor inside the guest: it has
// its instructions turned on, and page tables of its own, in which Windows isn't. All
// that Windows uses map KUSER_SHARED_DATA, those of its user mode with KVA shadow too.
func (s *System) inHypervisor(ctx context.Context, c *phys.Registers) bool {
	if modeOf(c) != modeLong || c.UserMode() || c.CR4&cr4VMX == 0 && (!c.HasEFER || c.EFER&eferSVM == 0) {
		return false
	}
	own, err := s.Space.Translate(ctx, s.Space.arch.kuser)
	if err != nil {
		return false
	}
	there, err := s.Space.at(c.PageTableRoot()).Translate(ctx, s.Space.arch.kuser)
	return ctx.Err() == nil && (err != nil || there.Addr != own.Addr)
}
