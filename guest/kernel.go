package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"snap/phys"
)

// Where a kernel is looked for.
const (
	// kernelReach is how far from a pointer into the kernel or the HAL the
	// kernel's base is looked for. Kernel images are at most some 20 MiB.
	kernelReach = 32 << 20

	// kernelSlots is how many entries of the top-level table the range takes
	// where kernels are.
	kernelSlots = 2
)

// Bounds on the search of the kernel's whole range, over one discovery.
const (
	maxRangeChunks = 2 << 10 // of scanChunk bytes that are read
	maxRangeSteps  = 4 << 20 // of page table entries that map nothing
)

// hint is an address that is likely in the kernel image.
type hint struct {
	at   phys.VirtAddr
	from string
}

// maxKernels bounds how many kernel images one discovery looks into: the
// running one, and what may be mapped or left over of others.
const maxKernels = 64

// kernelSearch finds kernel images in address spaces. It is for one goroutine.
type kernelSearch struct {
	buf    []byte // of scanChunk bytes
	chunks int    // that may still be read in scans of the kernel's range
	steps  int    // over unmapped entries that such scans may still take
	looked map[kernelAt]bool
}

// kernelAt is a kernel image in the address space of a top-level table.
type kernelAt struct {
	root phys.Addr
	base phys.VirtAddr
}

func newKernelSearch() *kernelSearch {
	return &kernelSearch{
		buf: make([]byte, scanChunk), chunks: maxRangeChunks, steps: maxRangeSteps, looked: map[kernelAt]bool{},
	}
}

// acceptKernel looks into a kernel image and reports whether it is the one.
type acceptKernel func(im *Image, from string) bool

// find offers accept the kernel images in space, near the hints or else
// anywhere in the range where kernels are, until it takes one. It fails if
// none was taken.
func (k *kernelSearch) find(ctx context.Context, space *AddressSpace, hints []hint, accept acceptKernel) error {
	for _, h := range hints {
		if done, err := k.near(ctx, space, h, accept); done || err != nil {
			return err
		}
	}
	done, err := k.inRange(ctx, space, accept)
	if err == nil && !done {
		err = errors.New("no kernel image that fits is mapped")
	}
	return err
}

// near looks for the kernel from a hint down, then up.
func (k *kernelSearch) near(ctx context.Context, space *AddressSpace, h hint, accept acceptKernel) (bool, error) {
	const reach = kernelReach / scanChunk
	chunk := h.at &^ (scanChunk - 1)
	for i := range 2 * reach {
		from := chunk - phys.VirtAddr(i)*scanChunk
		if i >= reach {
			from = chunk + phys.VirtAddr(i-reach+1)*scanChunk
		}
		if !from.Kernel() {
			continue
		}
		if done, err := k.inChunk(ctx, space, from, h.from, accept); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// inChunk looks for a kernel's first page among those of a chunk.
func (k *kernelSearch) inChunk(ctx context.Context, space *AddressSpace, at phys.VirtAddr, from string, accept acceptKernel) (bool, error) {
	pages, err := readSparse(ctx, space, k.buf, at)
	if err != nil || pages == 0 {
		return false, err
	}
	for off := 0; off < len(k.buf); off += phys.PageSize {
		if _, ok := peOffset(k.buf[off : off+phys.PageSize]); !ok {
			continue
		}
		im, err := ReadImage(ctx, space, at+phys.VirtAddr(off))
		// The reach of one hint overlaps another's.
		if key := (kernelAt{space.root, at + phys.VirtAddr(off)}); err == nil && !k.looked[key] && isKernel(ctx, space.arch, im) {
			if len(k.looked) >= maxKernels {
				return false, fmt.Errorf("none of %d kernel images fits", maxKernels)
			}
			k.looked[key] = true
			if accept(im, from) {
				return true, nil
			}
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return false, nil
}

// inRange looks through everything that is mapped where kernels are.
func (k *kernelSearch) inRange(ctx context.Context, space *AddressSpace, accept acceptKernel) (bool, error) {
	const from = "scan of the kernel's address range"
	for at := space.arch.kernelsLow; at < space.arch.kernelsHigh; {
		if _, err := space.Translate(ctx, at); err != nil {
			if k.steps--; k.steps < 0 {
				return false, fmt.Errorf("kernel not found within %d page table entries", maxRangeSteps)
			}
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			at += phys.VirtAddr(missing(err, at))
			continue
		}
		if k.chunks--; k.chunks < 0 {
			return false, fmt.Errorf("kernel not found within %d MiB of mapped memory", maxRangeChunks)
		}
		at &^= scanChunk - 1
		if done, err := k.inChunk(ctx, space, at, from, accept); done || err != nil {
			return done, err
		}
		at += scanChunk
	}
	return false, nil
}

// isKernel reports whether an image is the NT kernel: its export directory
// calls it ntoskrnl.exe, in all its variants, or its PDB is one of the kernel's.
func isKernel(ctx context.Context, arch *Arch, im *Image) bool {
	if im.Machine != arch.machine {
		return false
	}
	if name, err := im.ExportName(ctx); err == nil && strings.EqualFold(name, "ntoskrnl.exe") {
		return true
	}
	cv, err := im.CodeView(ctx)
	return err == nil && isKernelPDB(cv.PDB)
}

// isKernelPDB reports whether a PDB is ntkrnlmp.pdb, ntkrnlpa.pdb, … or
// ntoskrnl.pdb. Some linkers write a whole path.
func isKernelPDB(path string) bool {
	name := strings.ToLower(path[strings.LastIndexAny(path, `\/`)+1:])
	return strings.HasSuffix(name, ".pdb") &&
		(strings.HasPrefix(name, "ntkrnl") || strings.HasPrefix(name, "ntoskrnl"))
}
