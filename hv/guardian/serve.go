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
	report  func(string)

	self  Process
	run   *Run // as snap last said
	conn  hv.Connection
	vm    hv.Guardable
	watch hv.Watch
}

// Serve is the guardian's process: it returns when there is nothing left to do,
// or nothing that can be done. connect opens the way to the domain that snap names;
// report gets what the host's log should say.
func Serve(connect Connect, report func(string)) error {
	// Nothing but the end of its work ends a guardian, SIGKILL apart.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGUSR1, unix.SIGUSR2)
	if domain, err := unix.GetsockoptInt(socketFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return fmt.Errorf("the guardian is started by snap alone: descriptor %d is no socket to it", socketFD)
	}
	unix.CloseOnExec(socketFD)
	unix.CloseOnExec(lockFD)
	if err := unix.SetNonblock(socketFD, true); err != nil { // so that closing it ends a read
		return err
	}
	socket, lock := os.NewFile(socketFD, "snap"), os.NewFile(lockFD, "lock")
	defer lock.Close()
	defer socket.Close()
	dir, err := Dir()
	if err != nil {
		return err
	}
	s := &server{dir: dir, socket: socket, connect: connect, report: report}
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
		if m.Done {
			return true
		}
		r := reply{Process: s.self}
		if err := s.learn(m.Run); err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return false
		}
	}
}

// learn learns what is to be undone.
func (s *server) learn(r *Run) error {
	if r == nil {
		return errors.New("snap said nothing")
	}
	if s.run == nil {
		if err := s.begin(r); err != nil {
			return err
		}
	}
	if r.Holding && !s.run.Holding {
		s.watch.Reset(false)
	}
	s.run = r
	return nil
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
	s.report(fmt.Sprintf("snap, process %d, died during a dump of domain %q; undoing it", r.Snap.PID, r.Name))
	r.Guardian = s.self
	did, err := r.undo(context.Background(), s.dir, known(s.vm, s.watch), tryFor)
	if err == nil {
		s.report(fmt.Sprintf("domain %q: %s", r.Name, strings.Join(append(did, "nothing is left of the dump"), "; ")))
		return r.finish(s.dir)
	}
	r.setTrouble(err)
	s.report(fmt.Sprintf("domain %q: %s; run snap recover", r.Name, r.Trouble))
	return errors.Join(err, r.save(s.dir))
}
