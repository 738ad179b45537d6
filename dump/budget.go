package dump

import "fmt"

// budget is how a pipeline divides the memory that it may use.
type budget struct {
	workers int
	frames  int   // on their way at a time
	block   int   // bytes that are written at a time
	blocks  int   // of them, being filled or written
	proof   int64 // bytes of the proof
}

// Bounds of what is written at a time: large enough that a system call and a change
// between processors cost nothing beside it.
const (
	maxBlock = 4 << 20
	minBlock = 64 << 10
)

// budget divides Options.Memory.
func (p *pipeline) budget() (budget, error) {
	b := budget{blocks: 3, block: minBlock, proof: p.opts.Memory / 8}
	for b.block < maxBlock && int64(b.block) < p.opts.Memory/32 {
		b.block *= 2
	}
	if p.cont.plain {
		b.blocks = 0 // frames are written as they are
	}
	perFrame := int64(p.frameSize + storedBound(p.frameSize))
	perWorker := int64(p.frameSize + decodeSlack)
	if p.cont.plain {
		perFrame, perWorker = int64(p.frameSize), 0
	}
	rest := p.opts.Memory - b.proof - int64(b.blocks*b.block)
	// One frame more than workers, so that one can be written meanwhile.
	least := 2*perFrame + perWorker
	if rest < least {
		return b, fmt.Errorf("memory limit of %d bytes: frames of %d bytes need at least %d", p.opts.Memory, p.frameSize, p.opts.Memory-rest+least)
	}
	b.workers = int(min(int64(p.opts.Workers), (rest-perFrame)/(perFrame+perWorker)))
	b.frames = int(min(int64(2*b.workers+2), (rest-int64(b.workers)*perWorker)/perFrame))
	return b, nil
}
