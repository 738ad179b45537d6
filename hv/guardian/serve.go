package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// tryFor is how long the guardian goes on after snap's death while the
// hypervisor's daemon is away: one that comes back finds the guest as it was, paused.
const tryFor = 10 * time.Minute

// server is the guardian's end.
type server struct {
	dir     string
	socket  *os.File
	connect Connect
	remove  Remove
	report  func(string)

	self  Process
	run   *Run // as snap last said
	conn  hv.Connection
	vm    hv.Guardable
	watch hv.Watch

	promise promise // that snap made last
}

// Serve is the guardian's process: it returns when there is nothing left to do,
// or nothing that can be done. connect opens the way to the domain that snap names,
// remove is for what snap has begun at other hosts, and report gets what the host's log
// should say.
func Serve(connect Connect, remove Remove, report func(string)) error {
	// Nothing but the end of its work ends a guardian, SIGKILL apart.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGUSR1, unix.SIGUSR2)
	socket, err := inherited("guardian")
	if err != nil {
		return err
	}
	defer socket.Close()
	unix.CloseOnExec(lockFD)
	lock := os.NewFile(lockFD, "lock")
	defer lock.Close()
	leaveCgroup()
	dir, err := Dir()
	if err != nil {
		return err
	}
	s := &server{dir: dir, socket: socket, connect: connect, remove: remove, report: report}
	if s.self, err = Self(); err != nil {
		return err
	}
	done := s.listen()
	defer s.close()
	switch {
	case done:
		return nil
	case s.run == nil:
		return forgetUntold(dir)
	}
	return s.undo()
}

// inherited returns the socket that this process was started with.
func inherited(as string) (*os.File, error) {
	if domain, err := unix.GetsockoptInt(socketFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return nil, fmt.Errorf("the %s is started by snap alone: descriptor %d is no socket to it", as, socketFD)
	}
	unix.CloseOnExec(socketFD)
	if err := unix.SetNonblock(socketFD, true); err != nil { // so that closing it ends a read
		return nil, err
	}
	return os.NewFile(socketFD, "snap"), nil
}

// forgetUntold removes the state file of a snap that died before it had said
// what it is about. It is beside the lock, which this process has.
func forgetUntold(dir string) error {
	lock, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", lockFD))
	if err != nil {
		return err
	}
	r, err := load(filepath.Join(dir, strings.TrimSuffix(filepath.Base(lock), lockSuffix)+stateSuffix))
	if err != nil || r.Holding || len(r.Files) > 0 {
		return err
	}
	return r.finish(dir)
}

// listen takes in what snap says until it says that it is done, or dies.
func (s *server) listen() (done bool) {
	in, out := json.NewDecoder(s.socket), json.NewEncoder(s.socket)
	for {
		var m message
		if err := in.Decode(&m); err != nil {
			return false
		}
		switch {
		case m.Done:
			return true
		case m.Progressed:
			s.promise.progressed()
			continue
		}
		r := reply{Process: s.self}
		var err error
		if r.Overdue, err = s.learn(m.Run, m.Within); err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return false
		}
	}
}

// learn learns what is to be undone, and by when. It returns whether it was undone
// since it last learnt something.
func (s *server) learn(r *Run, within time.Duration) (*overdue, error) {
	if r == nil {
		return nil, errors.New("snap said nothing")
	}
	held := s.run != nil && s.run.Holding
	if s.run == nil {
		if err := s.begin(r); err != nil {
			return nil, err
		}
	}
	if r.Holding && !held {
		s.watch.Reset(false)
		if err := s.promise.make(within, patienceOf(r.Why), func(ctx context.Context, o overdue) { s.letGo(ctx, r, o) }); err != nil {
			return nil, err
		}
	}
	s.run = r
	if !r.Holding && held {
		return s.promise.kept(), nil
	}
	return nil, nil
}

// letGo does what snap doesn't: the guest is held for longer than was promised.
func (s *server) letGo(ctx context.Context, r *Run, o overdue) {
	s.report(fmt.Sprintf("snap, process %d, has held domain %q for %v, but %s; letting it go", r.Snap.PID, r.Name, o.Held.Round(time.Millisecond), o.Why))
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	did, err := r.free(ctx, s.dir, known(s.vm, s.watch))
	if err != nil {
		did = append(did, strings.ReplaceAll(err.Error(), "\n", "; ")+"; run snap recover when snap has ended")
	}
	s.report(fmt.Sprintf("domain %q: %s", r.Name, strings.Join(did, "; ")))
}

// begin connects to the domain and to snap's process.
func (s *server) begin(r *Run) error {
	process, err := r.Snap.open()
	if err != nil {
		return err
	}
	// The socket tells of snap's death; this tells of it even if something else
	// should have the socket's other end.
	go func() {
		defer process.Close()
		raw, err := process.SyscallConn()
		if err != nil {
			return
		}
		first := true
		_ = raw.Read(func(uintptr) bool { again := !first; first = false; return again })
		_ = s.socket.SetReadDeadline(time.Now())
	}()
	ctx, cancel := context.WithTimeout(context.Background(), readyIn)
	defer cancel()
	if s.conn, s.vm, err = r.find(ctx, s.connect); err != nil {
		return err
	}
	s.watch, err = s.vm.Watch(ctx)
	if err != nil {
		return err
	}
	s.run = r
	return nil
}

func (s *server) close() {
	if s.watch != nil {
		s.watch.Close()
	}
	if s.conn != nil {
		_, _ = s.vm.Close(), s.conn.Close() // its process ends
	}
}

// undo does what snap would have done.
func (s *server) undo() error {
	r := s.run
	s.promise.end() // what it began is done again
	s.report(fmt.Sprintf("snap, process %d, died during a dump of domain %q; undoing it", r.Snap.PID, r.Name))
	r.Guardian, r.Remove = s.self, s.remove
	did, err := r.undo(context.Background(), s.dir, known(s.vm, s.watch), tryFor)
	if err == nil {
		s.report(fmt.Sprintf("domain %q: %s", r.Name, strings.Join(append(did, "nothing is left of the dump"), "; ")))
		return r.finish(s.dir)
	}
	r.setTrouble(err)
	s.report(fmt.Sprintf("domain %q: %s; run snap recover", r.Name, r.Trouble))
	return errors.Join(err, r.save(s.dir))
}
