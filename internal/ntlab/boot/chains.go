package boot

import (
	"bytes"
	"context"
	"fmt"

	"snap/phys"
)

// ChainPages is the length of a processor's chain.
const ChainPages = 64

// Chain is the pages that one processor writes to, in its order.
type Chain struct {
	ID    int // the vCPU's index
	Pages []phys.Addr
}

// A page of a chain begins with this magic, then the chain's id, the page's
// place in it and the chain's length as 32-bit integers and a zero, then the
// number that changes, 64 bits.
const (
	chainMagic  = "SNAPCHN\x01"
	chainID     = 8
	chainIndex  = 12
	chainLength = 16
	chainNumber = 24
	chainSize   = 32
)

func chainHeader(id, index int) []byte {
	b := append(make([]byte, 0, chainSize), chainMagic...)
	b = le.AppendUint32(b, uint32(id))
	b = le.AppendUint32(b, uint32(index))
	b = le.AppendUint32(b, ChainPages)
	return append(b, make([]byte, chainSize-len(b))...)
}

// Consistency says whether memory is of one moment.
type Consistency struct {
	// OnePoint: along every chain the numbers go down by one at most once,
	// which is what memory looks like at any single moment.
	OnePoint bool
	// Smear is the largest difference between two numbers of a chain beyond
	// that one, in rounds: how much a processor wrote while memory was read.
	Smear uint64
	// Rounds is the highest number of each chain.
	Rounds []uint64
	// Late is how many pages were written to after they were read, and before the
	// page with its chain's highest number was: that number says which ones the
	// others had by then. There may be more such pages, but not fewer.
	Late int
}

// CheckChains reads the chains from mem and measures them. A page that is not
// the chain's page of its place is an error.
func CheckChains(ctx context.Context, mem phys.Reader, chains []Chain) (Consistency, error) {
	c := Consistency{OnePoint: true}
	for _, chain := range chains {
		var numbers []uint64
		for i, at := range chain.Pages {
			var b [chainSize]byte
			if err := mem.ReadPhys(ctx, b[:], at); err != nil {
				return Consistency{}, fmt.Errorf("chain %d: %w", chain.ID, err)
			}
			if want := chainHeader(chain.ID, i); !bytes.Equal(b[:chainNumber], want[:chainNumber]) {
				return Consistency{}, fmt.Errorf("chain %d: page %d of it at %#x holds %x", chain.ID, i, uint64(at), b)
			}
			numbers = append(numbers, le.Uint64(b[chainNumber:]))
		}
		if len(numbers) == 0 {
			return Consistency{}, fmt.Errorf("chain %d has no pages", chain.ID)
		}
		c.add(numbers)
	}
	return c, nil
}

// add counts a chain's numbers in.
func (c *Consistency) add(numbers []uint64) {
	lo, hi := numbers[0], numbers[0]
	drops := 0
	for i, n := range numbers {
		lo, hi = min(lo, n), max(hi, n)
		if i > 0 && n != numbers[i-1] {
			drops++
			if n+1 != numbers[i-1] {
				c.OnePoint = false
			}
		}
	}
	if drops > 1 {
		c.OnePoint = false
	}
	newest := len(numbers) - 1
	for numbers[newest] != hi {
		newest--
	}
	for i, n := range numbers {
		if i < newest && n < hi || i > newest && n+1 < hi {
			c.Late++
		}
	}
	if hi-lo > 1 {
		c.Smear = max(c.Smear, hi-lo-1)
	}
	c.Rounds = append(c.Rounds, hi)
}

// FindChains finds the chains in the pages of ram by what they hold.
func FindChains(ctx context.Context, mem phys.Reader, ram phys.Runs) ([]Chain, error) {
	var chains []Chain
	seen := 0
	for _, r := range ram {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			var b [chainSize]byte
			if err := mem.ReadPhys(ctx, b[:], pfn.Addr()); err != nil {
				return nil, fmt.Errorf("look for chains: %w", err)
			}
			id, index := le.Uint32(b[chainID:]), le.Uint32(b[chainIndex:])
			if string(b[:len(chainMagic)]) != chainMagic || id >= MaxCPUs || index >= ChainPages {
				continue
			}
			for uint32(len(chains)) <= id {
				chains = append(chains, Chain{ID: len(chains), Pages: make([]phys.Addr, ChainPages)})
			}
			chains[id].Pages[index] = pfn.Addr()
			seen++
		}
	}
	if seen != len(chains)*ChainPages {
		return nil, fmt.Errorf("look for chains: %d pages of %d chains", seen, len(chains))
	}
	return chains, nil
}
