package guardian

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// unblockFor is how long Unblock waits for something to come through: who has
// opened the gate writes to it at once.
const unblockFor = time.Second

// Unblock lets a daemon go on that has come to open the gate (hv.Guard) of a
// process that died, where it waits for a reader. It needs no connection: until
// then such a daemon may answer nothing that is about the guest. There need not be
// a gate.
func Unblock(gate string) {
	f, err := os.OpenFile(gate, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return // then nobody waits there
	}
	poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	_, _ = unix.Poll(poll, int(unblockFor.Milliseconds())) // what comes of it shows in the guest
	_ = f.Close()
}
