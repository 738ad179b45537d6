// Package guardian makes sure that a guest which snap paused runs again, and that
// no half-written file stays, even if snap is killed.
//
// A dump starts a second process, the guardian, before it does anything that
// would have to be undone. The two share a socket and nothing else that matters:
// the guardian has a session of its own, so no signal to snap's group or terminal
// reaches it, and its standard streams are /dev/null, so nobody waits for it. On
// the socket snap says what it is about to do (a file that it will create, a
// guest that it will hold still or have QEMU save) and goes on only when the
// guardian knows. When the socket or snap ends without the word that all is
// undone, the guardian undoes it: at once, and for ten minutes if libvirt is away.
//
// Suspending a guest gives nobody ownership of it, and libvirt doesn't say who
// did. So the guardian resumes a guest only if it bears the marker of this very
// dump (set before the suspend), is paused for no other reason than a suspend,
// and no resume was seen since. A guest that a job of libvirt's holds for snap goes on
// by itself when snap dies; the guardian sees to it that it does. A snapshot is ended
// and QEMU's settings are put back.
//
// A snap that is alive may still do nothing: it was stopped (SIGSTOP), its control
// group is frozen, a debugger has it. So what it says on the socket is a promise: to
// have let the guest go by a time, and to make progress until then. When it doesn't
// keep it, the guardian lets the guest go, and tells snap so when that asks: what
// was read isn't of one moment then. To be neither stopped nor killed together with
// snap, the guardian leaves snap's control group where it may (leaveCgroup).
//
// What a job of libvirt's writes to is a pipe of a third process (hv.Gate), which
// nothing but the kernel has to end.
//
// The domain's lock is an open file that both processes have: no other dump of it
// begins before the last of them is gone. What is to be undone is also in a state
// file beside the lock, for Recover, should both be killed.
package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// Bounds on talking to the guardian.
const (
	readyIn = 30 * time.Second // it connects to the domain first
	answer  = 10 * time.Second
	leaveIn = 5 * time.Second
	sayIn   = 100 * time.Millisecond // what isn't answered
)

// Descriptors that the guardian is started with.
const (
	socketFD = 3
	lockFD   = 4
)

// message is what snap says, a JSON object each.
type message struct {
	Run        *Run          `json:"run,omitempty"`        // all that is to be undone from now on
	Within     time.Duration `json:"within,omitempty"`     // with a Run that begins to hold the guest: for how long at most, 0 for no time in particular
	Progressed bool          `json:"progressed,omitempty"` // there was progress; it isn't answered
	Done       bool          `json:"done,omitempty"`       // nothing is left to undo
}

// reply is the guardian's to each Run.
type reply struct {
	Process Process  `json:"process"`
	Error   string   `json:"error,omitempty"`
	Overdue *overdue `json:"overdue,omitempty"` // it let the guest go since the Run before
}

// overdue is a hv.OverdueError as it is told.
type overdue struct {
	Held time.Duration `json:"held"`
	Why  string        `json:"why"`
}

// Guardian is snap's end. It is safe for concurrent use.
type Guardian struct {
	dir  string
	gate []string // arguments that start a gate
	lock *os.File
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended
	conn net.Conn
	in   *json.Decoder

	recovered []string

	mu  sync.Mutex
	run Run
}

// Connect opens the connection that a URI names; connect.Open is one.
type Connect func(ctx context.Context, uri string) (hv.Connection, error)

// Program says how this program is started as another process of a dump.
type Program struct {
	Name     string   // by which it is called, and its processes are listed
	Guardian []string // arguments with which it calls Serve
	Gate     []string // and ServeGate
	Remove   Remove   // of what an earlier dump left at other hosts, nil for none
}

// Start locks the domain and starts its guardian. When it returns the guardian is
// ready. What an earlier dump of the domain left when it was killed is undone first,
// over a connection of its own. The error is ErrLocked if another dump of the domain
// runs. The caller ends with End.
func Start(ctx context.Context, vm hv.Guardable, connect Connect, p Program) (_ *Guardian, err error) {
	id := vm.Identity()
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	self, err := Self()
	if err != nil {
		return nil, err
	}
	g := &Guardian{dir: dir, gate: append([]string{p.Name}, p.Gate...), gone: make(chan struct{}), run: Run{
		ID: newID(), URI: id.URI, Name: id.Name, UUID: id.UUID, Instance: id.ID, Host: id.Host,
		Snap: self, Began: time.Now().UTC().Truncate(time.Second),
	}}
	if g.lock, err = g.run.lock(dir); err != nil {
		return nil, err
	}
	if err := g.clear(ctx, vm, connect, p.Remove); err != nil {
		return nil, errors.Join(err, g.lock.Close())
	}
	if err := g.run.save(dir); err != nil {
		return nil, errors.Join(err, g.lock.Close())
	}
	if err := g.spawn(append([]string{p.Name}, p.Guardian...)); err != nil {
		return nil, errors.Join(fmt.Errorf("start the guardian: %w", err), g.run.forget(dir), g.lock.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = g.conn.SetDeadline(time.Now()) })
	defer stop()
	if err := g.tell(readyIn); err != nil {
		return nil, errors.Join(fmt.Errorf("start the guardian: %w", err), ctx.Err(), g.End())
	}
	return g, nil
}

// clear undoes what a killed dump of the same domain left, before this one begins.
func (g *Guardian) clear(ctx context.Context, vm hv.Guardable, connect Connect, remove Remove) error {
	if err := g.clearState(ctx, connect, remove); err != nil {
		return err
	}
	m, err := vm.Marker(ctx)
	if errors.Is(err, hv.ErrFormat) {
		err = Unbelieved(vm, err)
	}
	if m == nil || err != nil {
		return err
	}
	r, err := runOf(vm, m)
	if err != nil {
		return err
	}
	if r.Snap.Alive() {
		return fmt.Errorf("lock domain %q: %w: %v; if that is long gone (snap can't tell): snap recover --force", r.Name, ErrLocked, r.Snap)
	}
	did, err := r.undo(ctx, g.dir, known(vm, nil), recoverFor)
	g.recovered = append(g.recovered, did...)
	return err
}

// clearState undoes what a killed dump left by its state file. Files of it that can't
// be removed don't keep this dump from being taken elsewhere, and neither does a state
// file of which nothing can be believed: the lock says that nobody uses it.
func (g *Guardian) clearState(ctx context.Context, connect Connect, remove Remove) error {
	left, err := load(g.run.path(g.dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, hv.ErrFormat):
		g.recovered = append(g.recovered, fmt.Sprintf("what it left is not known: %v", err))
		return nil
	case err != nil:
		return err
	}
	left.Remove = remove
	did, err := left.undo(ctx, g.dir, by(connect), recoverFor)
	g.recovered = append(g.recovered, did...)
	if files, ok := errors.AsType[*FilesError](err); ok {
		g.recovered = append(g.recovered, fmt.Sprintf("a part of its file is left behind, and snap recover will try again: %v", files))
		return left.setAside(g.dir, files)
	}
	if err != nil {
		return fmt.Errorf("undo the dump of domain %q that process %d left: %w", left.Name, left.Snap.PID, err)
	}
	return left.forget(g.dir)
}

// Recovered says what Start undid of an earlier dump.
func (g *Guardian) Recovered() []string { return g.recovered }

// spawn starts the process, with its name and arguments.
func (g *Guardian) spawn(args []string) error {
	conn, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	g.conn = conn
	if err := closeOnExec(); err != nil {
		return errors.Join(err, conn.Close())
	}
	g.in = json.NewDecoder(g.conn)
	// The link finds the program even if its file was replaced meanwhile.
	g.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: args, Dir: "/",
		ExtraFiles:  []*os.File{theirs, g.lock},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := g.cmd.Start(); err != nil {
		return errors.Join(err, g.conn.Close())
	}
	go func() {
		_ = g.cmd.Wait() // what it has to say it says in its replies
		close(g.gone)
	}()
	return nil
}

// socketPair returns two ends of a socket, one for another process.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "socket")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "socket")
	if ours, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// closeOnExec keeps what this process inherited, like a shell's pipes, from the
// guardian.
func closeOnExec() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range fds {
		var fd int
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// tell sends the run as it is now and waits for the answer.
func (g *Guardian) tell(during time.Duration) error {
	_, err := g.ask(message{Run: &g.run}, during)
	return err
}

// ask sends a message that is answered.
func (g *Guardian) ask(m message, during time.Duration) (reply, error) {
	if err := g.conn.SetDeadline(time.Now().Add(during)); err != nil {
		return reply{}, err
	}
	if err := json.NewEncoder(g.conn).Encode(m); err != nil {
		return reply{}, fmt.Errorf("%w: tell it: %w", ErrProcess, err)
	}
	var r reply
	if err := g.in.Decode(&r); err != nil {
		return reply{}, fmt.Errorf("%w: hear from it: %w", ErrProcess, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%w: %s", ErrProcess, r.Error)
	}
	g.run.Guardian = r.Process
	return r, g.run.save(g.dir)
}

// Expect has the files removed if snap dies. They are about to be created; their
// names end with the run's (see Token).
func (g *Guardian) Expect(paths ...string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range paths {
		if !isFar(p) {
			abs, err := filepath.Abs(p)
			if err != nil {
				return err
			}
			p = abs
		}
		g.run.Files = append(g.run.Files, p)
	}
	return g.tell(answer)
}

// Token ends the names of the run's partial files, after ".partial-".
func (g *Guardian) Token() string { return g.run.ID }

// Guard is what the domain's pauses and snapshots are to stand under: the marker
// and the gates of this dump, with k, which passes on to g what it is told, and w.
func (g *Guardian) Guard(k hv.Keeper, w hv.Watch) hv.Guard {
	s := g.run.Snap
	return hv.Guard{
		Keeper: k, Watch: w,
		Marker: hv.Marker{Run: g.run.ID, Host: s.Host, Boot: s.Boot, Namespace: s.Namespace, PID: s.PID, Start: s.Start},
		Gate: func(ctx context.Context) (hv.Gate, error) {
			gate, err := openGate(ctx, g.gate)
			if err != nil {
				return nil, err
			}
			return gate, nil
		},
	}
}

var _ hv.Keeper = (*Guardian)(nil)

// Hold implements hv.Keeper.
func (g *Guardian) Hold(_ context.Context, why hv.Reason, until time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run.Holding, g.run.Why = true, why
	m := message{Run: &g.run}
	if !until.IsZero() {
		m.Within = max(time.Until(until), time.Millisecond)
	}
	if _, err := g.ask(m, answer); err != nil {
		g.run.Holding = false
		return err
	}
	return nil
}

// Progressed implements hv.Keeper. While the guardian is being told something else
// there is nothing to say.
func (g *Guardian) Progressed() {
	if !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	_ = g.conn.SetWriteDeadline(time.Now().Add(sayIn))
	_ = json.NewEncoder(g.conn).Encode(message{Progressed: true}) // a guardian that died has nothing to let go
}

// Freed implements hv.Keeper.
func (g *Guardian) Freed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.run.Holding = false
	r, _ := g.ask(message{Run: &g.run}, answer) // a guardian that died has let nothing go
	if r.Overdue != nil {
		return &hv.OverdueError{Held: r.Overdue.Held, Why: r.Overdue.Why}
	}
	return nil
}

// End lets the guardian go. If a guest is still held, the guardian goes on
// without snap, and End doesn't wait for it.
func (g *Guardian) End() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.run.Holding {
		return errors.Join(g.conn.Close(), g.lock.Close())
	}
	err := g.run.finish(g.dir)
	_ = g.conn.SetDeadline(time.Now().Add(answer))
	_ = json.NewEncoder(g.conn).Encode(message{Done: true}) // if it is dead it needn't know
	select {
	case <-g.gone:
	case <-time.After(leaveIn):
	}
	return errors.Join(err, g.conn.Close(), g.lock.Close())
}
