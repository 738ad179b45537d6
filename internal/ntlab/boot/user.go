package boot

import (
	_ "embed"
	"fmt"

	"snap/phys"
)

// userCode is user.asm: the bridge into a process first, then the loop there.
//
//go:embed user.bin
var userCode []byte

const (
	bridgeSize = 16 // the bridge's share of userCode
	userStride = 64 // room for each vCPU's loop in a page of code
)

// installUser prepares a processor that loops in user mode, in the page of
// code that its RIP is in, and counts in its stack's page.
func (in *installer) installUser(i int) (block, error) {
	r := &in.regs[i]
	process := tablesOf(in.im, tableBase(r.CR3))
	code := phys.VirtAddr(r.RIP).Page() + phys.VirtAddr(i*userStride)
	if code.Page() != phys.VirtAddr(r.RIP).Page() {
		return block{}, fmt.Errorf("a page of user code has room for %d loops", phys.PageSize/userStride)
	}
	loop := userCode[bridgeSize:]
	if err := process.write(loop, code); err != nil {
		return block{}, err
	}
	counter := phys.VirtAddr(r.RSP).Page() + phys.VirtAddr(i*8)
	if err := process.mustWrite(counter, 8); err != nil {
		return block{}, err
	}
	heartbeat, _, err := process.translate(counter)
	if err != nil {
		return block{}, err
	}
	bridge, err := in.placeBridge(process, r)
	if err != nil {
		return block{}, err
	}
	in.info.VCPUs = append(in.info.VCPUs, in.vcpu(i, code, len(loop), heartbeat))
	return block{entry: bridge, code: code, data: counter}, nil
}

// placeBridge writes the bridge to where both the kernel's and the process's
// page tables map it: to the kernel's spare text, or, under KVA shadow, to the
// end of the page that system calls enter by.
func (in *installer) placeBridge(process tables, r *phys.Registers) (phys.VirtAddr, error) {
	bridge := userCode[:bridgeSize]
	if _, _, err := process.translate(in.spare); err == nil {
		return in.place(bridge)
	}
	at := phys.VirtAddr(r.LSTAR).Page() + phys.PageSize - bridgeSize
	a, _, err := process.translate(at)
	if err != nil {
		return 0, err
	}
	b, _, err := in.translate(at)
	if err != nil {
		return 0, err
	}
	if a != b {
		return 0, fmt.Errorf("%#x is at %#x in the process and at %#x in the kernel", uint64(at), uint64(a), uint64(b))
	}
	return at, in.write(bridge, at)
}
