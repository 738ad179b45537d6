package main

import (
	"fmt"
	"strings"

	"snap/manifest"
)

// vbsLine is what was seen of virtualization-based security.
func vbsLine(v *manifest.VBS) string {
	var seen []string
	if v.SecureKernel {
		seen = append(seen, "a secure kernel runs ("+printable(brief(v.SecureKernelFrom))+")")
	}
	if v.CredentialGuard {
		seen = append(seen, "Credential Guard ("+printable(brief(v.CredentialGuardFrom))+")")
	}
	if v.HypervisorVCPUs > 0 {
		seen = append(seen, fmt.Sprintf("%s in the guest's own hypervisor", plural(v.HypervisorVCPUs, "vCPU")))
	}
	return strings.Join(seen, ", ")
}

// vtl1Line is what is said of the secure kernel's memory. A manifest that is read may
// say anything.
func vtl1Line(v manifest.VTL1) string {
	if v == manifest.VTL1Held {
		return "in the file: memory and secrets of the secure kernel, which no dump made by Windows holds"
	}
	return "not known whether memory of the secure kernel is in the file: it is if it was read from outside of the guest"
}
