package guest

import (
	"context"
	"errors"

	"snap/phys"
)

// Where a kernel is looked for.
const (
	// kernelReach is how far from a pointer into the kernel or the HAL the
	// kernel's base is looked for. Kernel images are at most some 20 MiB.
	kernelReach = 32 << 20

	// kernelSlots is how many entries of the top-level table the range takes at
	// most where 64-bit kernels are.
	kernelSlots = 2

	// maxKernelSize bounds the image that is looked into: three times the largest
	// SizeOfImage of 3,658 public kernels, 0x145B000.
	maxKernelSize = 64 << 20
)

// hint is an address that is likely in the kernel image.
type hint struct {
	at   phys.VirtAddr
	from string
}

// kernelSearch finds kernel images in address spaces. It is for one goroutine.
type kernelSearch struct {
	budget *budget
	heads  *imageHeads

	chunks map[spaceAt]bool // that were searched
	images map[spaceAt]bool // whose headers were read
	barren map[tableAt]bool // page tables under which no image begins
	met    int              // beginnings of images, each as often as it was mapped
	passed passedImages
}

// spaceAt is an address in the address space of a top-level table.
type spaceAt struct {
	root phys.Addr
	at   phys.VirtAddr
}

func newKernelSearch(mem phys.Reader, ram phys.Runs, b *budget) *kernelSearch {
	return &kernelSearch{
		budget: b, heads: newImageHeads(mem, ram, b),
		chunks: map[spaceAt]bool{}, images: map[spaceAt]bool{}, barren: map[tableAt]bool{},
	}
}

// acceptKernel looks into a kernel image and reports whether it is the one.
type acceptKernel func(im *Image, from string) bool

// errNoKernel: no image in an address space was taken.
var errNoKernel = errors.New("no kernel image that fits is mapped")

// find offers accept the kernel images in space, near the hints or else
// anywhere in the range where kernels are, until it takes one. It fails if
// none was taken; of class errBudget, if not everything was looked at.
func (k *kernelSearch) find(ctx context.Context, space *AddressSpace, hints []hint, accept acceptKernel) error {
	for _, h := range hints {
		if done, err := k.near(ctx, space, h, accept); done || err != nil {
			return err
		}
	}
	done, err := k.inRange(ctx, space, accept)
	if err == nil && !done {
		err = errNoKernel
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
		key := spaceAt{space.root, from}
		if !from.Kernel() || k.chunks[key] {
			continue
		}
		if err := k.budget.spend(workChunks, 1); err != nil {
			return false, err
		}
		k.chunks[key] = true
		if done, err := k.inChunk(ctx, space, from, h.from, accept); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// inChunk looks at the images that begin in a chunk.
func (k *kernelSearch) inChunk(ctx context.Context, space *AddressSpace, chunk phys.VirtAddr, from string, accept acceptKernel) (bool, error) {
	space.prefetch(ctx, chunk, scanChunk)
	for off := uint64(0); off < scanChunk; {
		at := chunk + phys.VirtAddr(off)
		e, err := space.Extent(ctx, at)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err != nil { // a table that can't be read
			e = phys.Extent{Size: missing(err, at)}
		}
		n := min(e.Size, scanChunk-off)
		if err := k.budget.spend(workEntries, 1+n>>phys.PageShift); err != nil {
			return false, err
		}
		if e.Residence == phys.Resident {
			if done, err := k.inPages(ctx, space, at, e.At, n, from, accept); done || err != nil {
				return done, err
			}
		}
		off += n
	}
	return false, nil
}

// inPages looks at the images that begin in the n bytes at at, whole pages, that
// are n bytes of physical memory from pa on.
func (k *kernelSearch) inPages(ctx context.Context, space *AddressSpace, at phys.VirtAddr, pa phys.Addr, n uint64, from string, accept acceptKernel) (done bool, err error) {
	headsErr := k.heads.in(ctx, pa, n, func(off uint64) bool {
		k.met++
		done, err = k.image(ctx, space, at+phys.VirtAddr(off), from, accept)
		return !done && err == nil
	})
	if err == nil {
		err = headsErr
	}
	return done, err
}

// image offers accept the image at base if it is a kernel.
func (k *kernelSearch) image(ctx context.Context, space *AddressSpace, base phys.VirtAddr, from string, accept acceptKernel) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	key := spaceAt{space.root, base}
	if k.images[key] {
		return false, nil
	}
	if err := k.budget.spend(workHeads, 1); err != nil {
		return false, err
	}
	k.images[key] = true
	im, err := ReadImage(ctx, space, base)
	if err != nil {
		k.passed.add(imageName{base: base}, err.Error())
		return false, ctx.Err()
	}
	name := nameImage(ctx, im)
	if why := name.refused(space.arch); why != "" {
		k.passed.add(name, why)
		return false, ctx.Err()
	}
	if err := k.budget.spend(workKernels, 1); err != nil {
		return false, err
	}
	return accept(im, from), nil
}
