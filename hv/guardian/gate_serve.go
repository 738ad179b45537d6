package guardian

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Numbers among which the descriptor of a gate's path is drawn: above those that
// programs use, where there are such. The kernel's table of descriptors takes 8
// bytes for each number below.
const (
	lowestGateFD  = 1 << 12
	highestGateFD = 1 << 18
)

// ServeGate is the process of a gate: it has a pipe that nobody reads, says how it
// is called, and lives until it is killed, by snap, by the kernel when snap's thread
// ends that started it, or by its own timers. These are the kernel's, and their
// signal is SIGKILL: it ends a process that is stopped (SIGSTOP) and one that is
// frozen by cgroup v2 as well.
func ServeGate() error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGUSR1, unix.SIGUSR2)
	socket, err := inherited("gate")
	if err != nil {
		return err
	}
	defer socket.Close()
	// It was set by who started this, but an exec that gains rights clears it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("have the kernel end this process with snap: %w", err)
	}
	leaveCgroup()
	g := &gateServer{socket: socket, out: json.NewEncoder(socket)}
	if err := g.open(); err != nil {
		_ = g.tell(gateReply{Error: err.Error()}) // its end tells as well
		return err
	}
	defer g.pipe.Close()
	if err := g.tell(gateReply{Path: g.path}); err != nil {
		return err
	}
	go g.await()
	return g.listen()
}

// gateServer is a gate's process.
type gateServer struct {
	socket *os.File
	pipe   *os.File // its reading end
	fd     int      // its writing end
	path   string

	within, patience deadline

	mu  sync.Mutex
	out *json.Encoder
}

// open makes the pipe and a name for it.
func (g *gateServer) open() error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	g.pipe = os.NewFile(uintptr(fds[0]), "pipe")
	defer unix.Close(fds[1])
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	least := int(min(limit.Cur, highestGateFD)) / 2
	if more := 2*least - lowestGateFD; more > 0 {
		least = lowestGateFD + rand.IntN(more)
	}
	var err error
	if g.fd, err = unix.FcntlInt(uintptr(fds[1]), unix.F_DUPFD_CLOEXEC, least); err != nil {
		return fmt.Errorf("give the pipe a number from %d on: %w", least, err)
	}
	g.path = fmt.Sprintf("/proc/%d/task/%d/fd/%d", os.Getpid(), thread(), g.fd)
	return errors.Join(g.within.make(), g.patience.make())
}

// thread returns the number of a thread that lives as long as this process and
// isn't its first, which has the process's number.
func thread() int {
	for {
		is := make(chan int)
		go func() {
			runtime.LockOSThread()
			tid := unix.Gettid()
			is <- tid
			if tid != os.Getpid() {
				select {}
			}
		}()
		if tid := <-is; tid != os.Getpid() {
			return tid
		}
	}
}

func (g *gateServer) tell(r gateReply) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.out.Encode(r)
}

// await waits until somebody has written to the pipe, who has it open then: its
// name isn't needed any more.
func (g *gateServer) await() {
	raw, err := g.pipe.SyscallConn()
	if err != nil {
		return
	}
	written := false
	_ = raw.Control(func(fd uintptr) {
		for {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, -1); errors.Is(err, unix.EINTR) {
				continue
			}
			written = poll[0].Revents&unix.POLLIN != 0
			return
		}
	})
	if written {
		_ = unix.Close(g.fd)
		_ = g.tell(gateReply{Written: true}) // snap's end ends this process
	}
}

// listen does what snap says until it is gone.
func (g *gateServer) listen() error {
	in := json.NewDecoder(g.socket)
	var patience gateMessage
	for {
		var m gateMessage
		if err := in.Decode(&m); err != nil {
			return nil // snap is gone
		}
		switch {
		case m.Arm:
			patience = m
			r := gateReply{Armed: true}
			if err := errors.Join(g.within.set(m.Within), g.patience.set(m.Patience)); err != nil {
				r = gateReply{Error: err.Error()}
			}
			if err := g.tell(r); err != nil {
				return err
			}
		case m.Progressed:
			if err := g.patience.set(patience.Patience); err != nil {
				return err
			}
		}
	}
}
