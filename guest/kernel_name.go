package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"snap/phys"
)

// kernelNames are what NT kernels call themselves, without suffix: for one
// processor, for several, with PAE, for several with PAE, and with 5 levels of
// page tables. The file is called ntoskrnl.exe whichever it is.
var kernelNames = []string{"ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp", "ntkrla57"}

// imageName is what an image calls itself. The texts are the guest's, made fit for
// lists and terminals.
type imageName struct {
	base    phys.VirtAddr
	size    uint32
	machine uint16
	export  string // of the export directory; empty if that can't be read
	pdb     string // file name of the PDB; empty if it can't be read
}

func nameImage(ctx context.Context, im *Image) imageName {
	n := imageName{base: im.Base, size: im.Size, machine: im.Machine}
	if name, err := im.ExportName(ctx); err == nil {
		n.export = cleanName(name)
	}
	if cv, err := im.CodeView(ctx); err == nil {
		// Some linkers write a whole path.
		n.pdb = cleanName(cv.PDB[strings.LastIndexAny(cv.PDB, `\/`)+1:])
	}
	return n
}

// kernel reports whether the name is an NT kernel's: in the export directory or
// in the PDB, in whatever case.
func (n *imageName) kernel() bool {
	return hasKernelName(n.export, ".exe") || hasKernelName(n.pdb, ".pdb")
}

func hasKernelName(file, suffix string) bool {
	name, ok := strings.CutSuffix(strings.ToLower(file), suffix)
	return ok && slices.Contains(kernelNames, name)
}

// refused says why the image is not looked into, empty if it is.
func (n *imageName) refused(arch *Arch) string {
	switch {
	case !n.kernel():
		return "its name is not a kernel's"
	case n.machine != arch.machine:
		return fmt.Sprintf("it is for machine %#x, not for %s", n.machine, arch.name)
	case n.size > maxKernelSize:
		return fmt.Sprintf("it says that it has %d MiB, more than any kernel", n.size>>20)
	}
	return ""
}

// String names the image for people.
func (n *imageName) String() string {
	var names []string
	if n.export != "" {
		names = append(names, "export name "+n.export)
	}
	if n.pdb != "" {
		names = append(names, "PDB "+n.pdb)
	}
	if len(names) == 0 {
		names = []string{"neither export name nor PDB in memory"}
	}
	return fmt.Sprintf("image at %#x (%s)", uint64(n.base), strings.Join(names, ", "))
}

// isKernel reports whether an image is the NT kernel.
func isKernel(ctx context.Context, arch *Arch, im *Image) bool {
	name := nameImage(ctx, im)
	return name.refused(arch) == ""
}

// PassedOver is an image that Discover met and did not look into, or not
// successfully.
type PassedOver struct {
	Base phys.VirtAddr
	Size uint32 // SizeOfImage, bytes
	// Names as the guest gives them, fit for a terminal; empty if they aren't in
	// memory.
	ExportName, PDB string
	Kernel          bool // the name is an NT kernel's
	Reason          string
}

// String says in one line what was passed over, and why.
func (p PassedOver) String() string {
	n := imageName{base: p.Base, size: p.Size, export: p.ExportName, pdb: p.PDB}
	return n.String() + ": " + oneLine(errors.New(p.Reason))
}

// maxPassedOver bounds the images that are kept to be told about.
const maxPassedOver = 8

// passedImages keeps the likeliest kernels among images that were passed over:
// those with a kernel's name, then the largest, each address once.
type passedImages struct{ list []PassedOver }

func (l *passedImages) add(n imageName, reason string) {
	p := PassedOver{Base: n.base, Size: n.size, ExportName: n.export, PDB: n.pdb, Kernel: n.kernel(), Reason: reason}
	if slices.ContainsFunc(l.list, func(o PassedOver) bool { return o.Base == p.Base }) {
		return
	}
	l.list = append(l.list, p)
	slices.SortStableFunc(l.list, func(a, b PassedOver) int {
		switch {
		case a.Kernel != b.Kernel && a.Kernel:
			return -1
		case a.Kernel != b.Kernel:
			return 1
		}
		return int(b.Size) - int(a.Size) // of 256 MiB at most
	})
	if len(l.list) > maxPassedOver {
		l.list = l.list[:maxPassedOver]
	}
}
