package capture

import (
	"context"

	"snap/guest"
	"snap/manifest"
)

// findVBS looks for a secure kernel in the guest, which has these processes, and says
// what that means for the dump.
func (a *Analysis) findVBS(ctx context.Context, processes []guest.Process, ofFile bool) {
	a.VBS = a.System.FindVBS(ctx, a.CPUs, processes)
	if !a.VBS.SecureKernel.Value {
		return
	}
	a.VTL1 = manifest.VTL1Held
	secrets := "what Windows itself can't read"
	if a.VBS.CredentialGuard.Value {
		secrets += ", the credentials that Credential Guard keeps (" + a.VBS.CredentialGuard.From + ") among it"
	}
	const withoutMark = "nothing in the guest's memory that snap reads tells which pages are the secure kernel's, so they can't be left out: keep the file as you keep those secrets"
	if ofFile {
		a.VTL1 = manifest.VTL1Unsure
		a.warnOfContents("the guest runs a secure kernel (VTL1; %s): if its memory was read from outside of the guest, the file holds %s; %s", a.VBS.SecureKernel.From, secrets, withoutMark)
		return
	}
	a.warnOfContents("the guest runs a secure kernel (VTL1; %s): the file holds memory of it, which no dump made by Windows does, with %s; %s", a.VBS.SecureKernel.From, secrets, withoutMark)
}

// describeVBS is the account of it, nil if nothing was seen.
func describeVBS(v *guest.VBS) *manifest.VBS {
	if !v.Seen() {
		return nil
	}
	return &manifest.VBS{
		SecureKernel: v.SecureKernel.Value, SecureKernelFrom: v.SecureKernel.From,
		CredentialGuard: v.CredentialGuard.Value, CredentialGuardFrom: v.CredentialGuard.From,
		HypervisorVCPUs: len(v.InHypervisor),
	}
}

// DescribeDump returns the account of the Windows in a dump.
func DescribeDump(ctx context.Context, sys *guest.System) manifest.Guest {
	g := DescribeGuest(sys)
	processes, _ := sys.Processes(ctx) // of a list that is broken, what was read
	v := sys.FindVBS(ctx, nil, processes)
	g.VBS = describeVBS(&v)
	return g
}
