package guest

import (
	"errors"
	"fmt"
)

// work is a kind of work of a discovery that a guest decides the amount of: how
// much memory it maps, how many images and blocks it has or pretends to have.
type work int

const (
	workCandidates work = iota
	workSpaces
	workChunks
	workEntries
	workScanned
	workHeads
	workKernels
	workKDBG
	workHeld
	workBeliefs
	workPointers
	workKinds
)

// Budgets of one discovery, over all finders, address spaces and images. An
// ordinary guest needs the part that each comment says; a hostile one costs a
// few seconds of one processor at most.
const (
	// maxCandidates: page tables that are tried. A guest has one for each
	// process, and the first that is Windows' ends the search.
	maxCandidates = 64 << 10
	// maxSpaces: address spaces that map a KUSER_SHARED_DATA and are searched for
	// a kernel. All processes of a guest share their kernel half and count once.
	maxSpaces = 80
	// maxChunks: stretches of 1 MiB around pointers into the kernel, each once in
	// an address space. One pointer has 64; processors share most of theirs.
	maxChunks = 64 << 10
	// maxEntries: page table entries that searches for images look at. To map
	// 2 GiB by pages of 4 KiB takes half a million.
	maxEntries = 8 << 20
	// maxScanned: bytes of RAM that are read to see where images begin, each page
	// once. Kernel and boot drivers are some 100 MiB.
	maxScanned = 2 << 30
	// maxHeads: headers of PE images that are read. A guest maps some 300.
	maxHeads = 8 << 10
	// maxKernels: kernel images that are looked into: the running one, and what
	// may be mapped or left over of others.
	maxKernels = 64
	// maxKDBGScan: bytes of kernel images that are searched for KDBGs. The largest
	// of 3,658 public kernels is 21 MiB.
	maxKDBGScan = 256 << 20
	// maxHeldScan: bytes of kernel images that are looked through for what their
	// variables hold, where there is no KDBG: once or twice the kernel's.
	maxHeldScan = 512 << 20
	// maxBeliefs: KDBGs that are followed to lists, processes and processors.
	// There is one in a sane guest.
	maxBeliefs = 128
	// maxPointers: pointers in kernel images, and links of processes, that are followed
	// to see whose they are, where there is no KDBG. Windows 10 has some 20 thousand
	// that are not null in its data, and some hundred processes.
	maxPointers = 1 << 20
)

// budgets are the limits by kind, and what is counted, in the plural.
var budgets = [workKinds]struct {
	limit uint64
	what  string
}{
	workCandidates: {maxCandidates, "page tables"},
	workSpaces:     {maxSpaces, "address spaces"},
	workChunks:     {maxChunks, "MiB around pointers into the kernel"},
	workEntries:    {maxEntries, "page table entries"},
	workScanned:    {maxScanned, "bytes of mapped memory"},
	workHeads:      {maxHeads, "image headers"},
	workKernels:    {maxKernels, "kernel images"},
	workKDBG:       {maxKDBGScan, "bytes of kernel images"},
	workHeld:       {maxHeldScan, "bytes of kernel images without a KDBG"},
	workBeliefs:    {maxBeliefs, "debugger data blocks"},
	workPointers:   {maxPointers, "pointers in kernel images and processes"},
}

// errBudget is the class of a search that ended because it did all that it may.
// It is no verdict: what was looked for may be further on.
var errBudget = errors.New("the search ended at its limit")

// budgetError says which limit ended a search. It is of class errBudget.
type budgetError struct {
	kind  work
	after uint64
}

func (e *budgetError) Error() string {
	return fmt.Sprintf("ended after %d %s", e.after, budgets[e.kind].what)
}

// Is reports whether target is errBudget.
func (e *budgetError) Is(target error) bool { return target == errBudget }

// budget is what a discovery has done and may do. Its shares, one for each
// finder, are equal; what one of them leaves goes to those after it, so that
// no finder can be led to do the work of all. It is for one goroutine.
type budget struct {
	spent [workKinds]uint64
	// Of shares, share are open.
	share, shares uint64
}

// newBudget returns a budget of the given number of shares, the first of them
// open.
func newBudget(shares int) *budget { return &budget{share: 1, shares: uint64(max(shares, 1))} }

// next opens one more share.
func (b *budget) next() { b.share = min(b.share+1, b.shares) }

// limit returns how much of a kind may be done in the shares that are open.
func (b *budget) limit(kind work) uint64 { return budgets[kind].limit * b.share / b.shares }

// spend takes n of a kind, or fails with a *budgetError and takes nothing.
func (b *budget) spend(kind work, n uint64) error {
	if limit := b.limit(kind); n > limit || b.spent[kind] > limit-n {
		return &budgetError{kind: kind, after: b.spent[kind]}
	}
	b.spent[kind] += n
	return nil
}
