package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// Bounds on a gate.
const (
	gateReady = 10 * time.Second // its process starts and says its path
	// gateGrace is how long after its time a pipe is closed: until then it is for
	// this process to do so, which is busy with just that.
	gateGrace = 2 * time.Second
	// gateEnds is how long the end of its process, whose time is up, is waited for.
	gateEnds = time.Second
)

// gateMessage is what the gate's process is told.
type gateMessage struct {
	Arm        bool          `json:"arm,omitempty"`      // set the times below, and answer
	Within     time.Duration `json:"within,omitempty"`   // close the pipe after so long, 0 for no time in particular
	Patience   time.Duration `json:"patience,omitempty"` // close it after so long without progress
	Progressed bool          `json:"progressed,omitempty"`
}

// gateReply is what it says.
type gateReply struct {
	Path    string `json:"path,omitempty"`
	Armed   bool   `json:"armed,omitempty"`
	Written bool   `json:"written,omitempty"`
	Error   string `json:"error,omitempty"`
}

// gate is snap's end of a pipe that another process has.
//
// The pipe is named by /proc/PID/task/TID/fd/N of that process. Whoever is told
// that name opens it later, and may write to what it then means, so it must not
// come to mean anything else. While this process lives it can't: it doesn't reap the
// other one before Free, and the number of a process that isn't reaped isn't given
// to another. When this process is gone, another one must first be given the number
// PID, for which all numbers have to be used up once (proc(5), pid_max), in the half
// minute for which libvirt lets a call wait; have a thread with the number TID, which
// none has that is single-threaded; and have a descriptor N open, a number drawn at
// random from those above what programs use. Without all three the path leads
// nowhere, and nothing can be created there.
type gate struct {
	path string
	conn net.Conn

	process *os.Process
	closed  chan struct{} // the process has ended, and the pipe with it
	written chan struct{}
	replies chan gateReply
	reap    func()
	shut    func()

	mu       sync.Mutex
	began    time.Time // when it was armed
	until    time.Time // as Arm was told
	progress time.Time // the last
	meant    bool      // Shut was called
}

var _ hv.Gate = (*gate)(nil)

// openGate starts a gate: this program with its name and the arguments, args, which call
// ServeGate. The caller ends with Shut and Free.
func openGate(ctx context.Context, args []string) (_ *gate, err error) {
	g := &gate{closed: make(chan struct{}), written: make(chan struct{}), replies: make(chan gateReply, 1)}
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make a gate: %w", err)
	}
	g.conn = conn
	if err := g.start(theirs, args); err != nil {
		return nil, errors.Join(fmt.Errorf("make a gate: %w", err), conn.Close())
	}
	go g.listen()
	r, err := g.reply(ctx)
	if err != nil {
		g.Shut()
		g.Free()
		return nil, fmt.Errorf("make a gate: %w", err)
	}
	g.path = r.Path
	return g, nil
}

// start starts the process. The kernel ends it when the thread ends that started
// it, so that thread does nothing else.
func (g *gate) start(socket *os.File, args []string) error {
	defer socket.Close()
	if err := closeOnExec(); err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: args, Dir: "/",
		ExtraFiles:  []*os.File{socket},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	started, reap := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for { // until it has ended; it keeps its number
			err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		close(g.closed)
		<-reap
		_ = cmd.Wait() // it was killed
	}()
	if err := <-started; err != nil {
		return err
	}
	g.process = cmd.Process
	g.reap = sync.OnceFunc(func() { close(reap) })
	g.shut = sync.OnceFunc(func() {
		_ = unix.Kill(g.process.Pid, unix.SIGKILL) // the number is still its own
		<-g.closed
		_ = g.conn.Close() // it may be closed
	})
	return nil
}

// listen takes in what the process says until it ends.
func (g *gate) listen() {
	in := json.NewDecoder(g.conn)
	for {
		var r gateReply
		if err := in.Decode(&r); err != nil {
			return
		}
		if r.Written {
			close(g.written)
			continue
		}
		select {
		case g.replies <- r:
		default: // nobody asked for more than one
		}
	}
}

// reply waits for an answer.
func (g *gate) reply(ctx context.Context) (gateReply, error) {
	ctx, cancel := context.WithTimeout(ctx, gateReady)
	defer cancel()
	select {
	case r := <-g.replies:
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-g.closed:
		return gateReply{}, errors.New("its process ended")
	case <-ctx.Done():
		return gateReply{}, fmt.Errorf("its process says nothing: %w", ctx.Err())
	}
}

// Path implements hv.Gate.
func (g *gate) Path() string { return g.path }

// Arm implements hv.Gate.
func (g *gate) Arm(until time.Time) error {
	g.mu.Lock()
	g.began, g.until, g.progress = time.Now(), until, time.Now()
	g.mu.Unlock()
	m := gateMessage{Arm: true, Patience: hv.Patience + gateGrace}
	if !until.IsZero() {
		m.Within = max(time.Until(until), 0) + gateGrace
	}
	if err := g.say(m); err != nil {
		return fmt.Errorf("arm the gate: %w", err)
	}
	if _, err := g.reply(context.Background()); err != nil {
		return fmt.Errorf("arm the gate: %w", err)
	}
	return nil
}

// say tells the process something. It doesn't wait for one that doesn't listen.
func (g *gate) say(m gateMessage) error {
	if err := g.conn.SetWriteDeadline(time.Now().Add(sayIn)); err != nil {
		return err
	}
	return json.NewEncoder(g.conn).Encode(m)
}

// Progressed implements hv.Gate.
func (g *gate) Progressed() {
	if g.say(gateMessage{Progressed: true}) != nil {
		return // its end is what tells
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.progress = time.Now()
}

// Written implements hv.Gate.
func (g *gate) Written() <-chan struct{} { return g.written }

// Closed implements hv.Gate.
func (g *gate) Closed() <-chan struct{} { return g.closed }

// Overdue implements hv.Gate. When the process ended isn't known, if this one was
// stopped then: it is said to have been as late as it can have been.
func (g *gate) Overdue() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.meant || g.began.IsZero() {
		return nil
	}
	if late := g.broken(time.Now()); late != nil {
		// The kernel ends the process when its time is up; this one, if it was stopped
		// as well, may hear of that a little later.
		select {
		case <-g.closed:
			return late
		case <-time.After(gateEnds):
		}
	}
	select {
	case <-g.closed:
		return &hv.OverdueError{Held: time.Since(g.began), Why: "the process that held it was killed"}
	default:
		return nil
	}
}

// broken is the promise for which the process will have closed the pipe by now, nil if
// there is none yet.
func (g *gate) broken(now time.Time) *hv.OverdueError {
	quiet, late := g.progress.Add(hv.Patience+gateGrace), g.until.Add(gateGrace)
	switch {
	case !g.until.IsZero() && !now.Before(late) && late.Before(quiet):
		return overdueBy(late.Sub(g.began), g.until.Sub(g.began))
	case !now.Before(quiet):
		return overdueQuiet(quiet.Sub(g.began), hv.Patience)
	}
	return nil
}

// Shut implements hv.Gate.
func (g *gate) Shut() {
	g.mu.Lock()
	select {
	case <-g.closed: // by itself
	default:
		g.meant = true
	}
	g.mu.Unlock()
	g.shut()
}

// Free implements hv.Gate.
func (g *gate) Free() { g.reap() }

// overdueBy is a guest that was not let go in time.
func overdueBy(held, allowed time.Duration) *hv.OverdueError {
	return &hv.OverdueError{Held: held, Why: fmt.Sprintf("it was to be held for %v at most", allowed.Round(time.Millisecond))}
}

// overdueQuiet is a guest that was held for nothing.
func overdueQuiet(held, patience time.Duration) *hv.OverdueError {
	return &hv.OverdueError{Held: held, Why: fmt.Sprintf("there was no progress for %v", patience)}
}
