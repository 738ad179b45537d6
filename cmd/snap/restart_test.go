package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

// upPrivate starts a guest whose libvirtd may be killed.
func upPrivate(t *testing.T, name string) *heldGuest {
	t.Helper()
	return upHeldWith(t, lab.Spec{Name: name, Connect: lab.Private, MemoryMiB: 256, CPUs: 1, FillMiB: 160, Seed: 31})
}

// pipedDump is a dump to a pipe: it goes on only as long as somebody reads.
type pipedDump struct {
	*running
	out *os.File
	got chan error // of reading it to its end
	dir string
}

// startPiped begins a dump to a pipe that nobody reads yet.
func (g *heldGuest) startPiped(t *testing.T, flags ...string) *pipedDump {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	p := &pipedDump{running: g.prepare(t, append([]string{"-o", "-"}, flags...)...), out: out, got: make(chan error, 1), dir: t.TempDir()}
	p.Stdout = in
	p.begin(t)
	in.Close()
	return p
}

// untilFull waits until snap has filled the pipe, and so stands in a write.
func (p *pipedDump) untilFull(t *testing.T) {
	t.Helper()
	size, err := unix.FcntlInt(p.out.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.until(t, "the pipe was full", func() bool {
		n, err := unix.IoctlGetInt(int(p.out.Fd()), unix.TIOCINQ)
		return err == nil && n > size-os.Getpagesize()
	})
}

// read reads the rest.
func (p *pipedDump) read(t *testing.T) {
	t.Helper()
	f, err := os.Create(filepath.Join(p.dir, "out.dmp.zst"))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := io.Copy(f, p.out)
		f.Close()
		p.got <- err
	}()
}

// untilWritten waits until snap has written all of the dump, whose table of frames ends
// with a number of its own (zstd contrib/seekable_format).
func (p *pipedDump) untilWritten(t *testing.T) {
	t.Helper()
	file := filepath.Join(p.dir, "out.dmp.zst")
	p.until(t, "it had written all", func() bool {
		f, err := os.Open(file)
		if err != nil {
			return false
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || info.Size() < 4 {
			return false
		}
		var last [4]byte
		_, err = f.ReadAt(last[:], info.Size()-4)
		return err == nil && last == [4]byte{0xB1, 0xEA, 0x92, 0x8F}
	})
}

// whole fails the test unless what was read is a whole dump.
func (p *pipedDump) whole(t *testing.T, c *lab.Connection) {
	t.Helper()
	if err := <-p.got; err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(p.dir, "out.dmp.zst")
	own := lab.Connection{URI: c.URI} // the file is this process's
	runSnap(t, &own, "verify", file).want(t, exitOK)
}

// stopLibvirtd ends the guest's libvirtd.
func (g *heldGuest) stopLibvirtd(t *testing.T, by unix.Signal) {
	t.Helper()
	if err := g.StopLibvirtd(by); err != nil {
		t.Fatal(err)
	}
}

// startLibvirtd starts it again, and returns when that began.
func (g *heldGuest) startLibvirtd(t *testing.T) time.Time {
	t.Helper()
	if err := g.StartLibvirtd(t.Context()); err != nil {
		t.Fatal(err)
	}
	return time.Now()
}

// lostDaemon fails the test unless snap said that libvirtd is why it failed.
func (r snapRun) lostDaemon(t *testing.T) {
	t.Helper()
	if _, advice, ok := strings.Cut(r.stderr, "\nnext: "); !ok || !strings.Contains(advice, "libvirtd") || !strings.Contains(r.stderr, "can't be reached") {
		t.Errorf("stderr is %q; want that libvirtd can't be reached, and it in the next step", r.stderr)
	}
}

// TestLibvirtdKilled kills libvirtd while snap holds the guest. Copying goes on
// without it, and the guest runs as soon as there is one to resume it.
func TestLibvirtdKilled(t *testing.T) {
	t.Parallel()
	g := upPrivate(t, "away")
	hold := func(t *testing.T) *pipedDump {
		p := g.startPiped(t, "--source", "direct", "--spool", "off")
		g.untilHeld(t, p.running)
		p.untilFull(t)
		g.stopLibvirtd(t, unix.SIGKILL)
		return p
	}
	t.Run("and back before the end", func(t *testing.T) {
		p := hold(t)
		time.Sleep(time.Second)
		g.startLibvirtd(t)
		p.read(t)
		p.wait(t).want(t, exitOK)
		p.whole(t, g.Connection)
		g.undone(t, hv.StateRunning, time.Now())
	})
	t.Run("and back after the end", func(t *testing.T) {
		p := hold(t)
		p.read(t)
		p.untilWritten(t)
		time.Sleep(time.Second) // in which snap tries to resume the guest
		back := g.startLibvirtd(t)
		g.undone(t, hv.StateRunning, back)
		p.wait(t).want(t, exitOK)
		p.whole(t, g.Connection)
	})
	t.Run("and snap with it", func(t *testing.T) {
		p := hold(t)
		p.kill()
		time.Sleep(time.Second)
		back := g.startLibvirtd(t)
		g.undone(t, hv.StateRunning, back)
	})
	t.Run("and snap before the end of a dump by peek", func(t *testing.T) {
		p := g.startPiped(t, "--source", "peek", "--spool", "off")
		g.untilHeld(t, p.running)
		p.untilFull(t)
		g.stopLibvirtd(t, unix.SIGKILL)
		p.read(t)
		time.Sleep(time.Second)
		back := g.startLibvirtd(t)
		g.undone(t, hv.StateRunning, back)
		p.wait(t).want(t, exitFailed).lostDaemon(t)
	})
	mustRun(t, g.Guest)
}

// TestLibvirtdKilledInJob kills libvirtd while a job of its own holds the guest for
// snap. What was read doesn't count then, and the guest runs soon after there is a
// libvirtd again.
func TestLibvirtdKilledInJob(t *testing.T) {
	t.Parallel()
	g := upPrivate(t, "awayinjob")
	hold := func(t *testing.T) stoppedDump {
		h := g.stopHeld(t, "dump", func() *soaked {
			return g.startSoaked(t, soakWay{flags: []string{"--source", "peek", "--max-pause", longPause.String()}})
		}, func(r *soaked) func() {
			time.Sleep(50 * time.Millisecond) // until it copies
			return r.stop()
		})
		g.stopLibvirtd(t, unix.SIGKILL)
		return h
	}
	t.Run("and back after the end", func(t *testing.T) {
		r := hold(t)
		r.goOn()
		time.Sleep(time.Second)
		back := g.startLibvirtd(t)
		g.undone(t, hv.StateRunning, back)
		r.wait(t).want(t, exitFailed).lostDaemon(t)
	})
	t.Run("and back before the end", func(t *testing.T) {
		r := hold(t)
		g.startLibvirtd(t)
		r.goOn()
		// libvirt 9.0 crashes on the end of a dump that it knows nothing of any
		// more; systemd would start it again.
		back := time.Now()
		for {
			select {
			case <-r.ended:
			case <-time.After(200 * time.Millisecond):
				if _, err := g.Virsh(t.Context(), "list"); err != nil {
					g.stopLibvirtd(t, unix.SIGKILL)
					back = g.startLibvirtd(t)
				}
				continue
			}
			break
		}
		r.wait(t).want(t, exitFailed).lostDaemon(t)
		g.undone(t, hv.StateRunning, back)
	})
	t.Run("and snap with it", func(t *testing.T) {
		r := hold(t)
		r.kill()
		time.Sleep(time.Second)
		back := g.startLibvirtd(t)
		g.undone(t, hv.StateRunning, back)
	})
	mustRun(t, g.Guest)
}

// TestLibvirtdRestarted restarts libvirtd while snap holds nothing: before the
// pause, which may end the dump but harms nobody, and after it.
func TestLibvirtdRestarted(t *testing.T) {
	t.Parallel()
	g := upPrivate(t, "restarted")
	t.Run("before the pause", func(t *testing.T) {
		r := g.start(t, "--source", "direct")
		g.untilKnown(t, r)
		g.stopLibvirtd(t, unix.SIGTERM)
		back := g.startLibvirtd(t)
		if got := r.wait(t); got.code != exitOK {
			got.want(t, exitFailed).lostDaemon(t)
		}
		g.wholeOrNone(t)
		g.undone(t, hv.StateRunning, back)
	})
	t.Run("after the pause", func(t *testing.T) {
		p := g.startPiped(t, "--source", "direct")
		p.untilFull(t)
		if s, err := g.vm.State(t.Context()); s != hv.StateRunning || err != nil {
			t.Fatalf("the guest is %s (%v) when its copy is written; want running", s, err)
		}
		g.stopLibvirtd(t, unix.SIGTERM)
		g.startLibvirtd(t)
		p.read(t)
		p.wait(t).want(t, exitOK)
		p.whole(t, g.Connection)
		g.undone(t, hv.StateRunning, time.Now())
	})
	mustRun(t, g.Guest)
}

// TestLibvirtdGone: without libvirtd snap says that the guest stands and ends. Its
// guardian would go on; when that is killed as well, snap recover does its work.
func TestLibvirtdGone(t *testing.T) {
	t.Parallel()
	g := upPrivate(t, "gone")
	p := g.startPiped(t, "--source", "direct", "--spool", "off")
	g.untilHeld(t, p.running)
	p.untilFull(t)
	run, _ := g.runFile(t)
	g.stopLibvirtd(t, unix.SIGKILL)
	p.read(t)
	r := p.wait(t).want(t, exitStillPaused)
	if _, advice, ok := strings.Cut(r.stderr, "\nnext: "); !ok || !strings.Contains(advice, "snap recover") {
		t.Errorf("stderr is %q; want snap recover as the next step", r.stderr)
	}
	if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
		t.Fatalf("the guardian doesn't go on: %v", err)
	}
	g.startLibvirtd(t)
	if s, err := g.vm.State(t.Context()); s != hv.StatePaused || err != nil {
		t.Fatalf("the guest is %s (%v) with nobody to resume it; want paused", s, err)
	}
	if m, err := g.vm.Marker(t.Context()); m == nil || m.Run != run.ID || err != nil {
		t.Errorf("the guest's mark is %+v (%v); want that of the dump", m, err)
	}
	done := runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
	if want := fmt.Sprintf("%s: resumed the guest", g.Name); !strings.Contains(done.stdout, want) {
		t.Errorf("snap recover says %q; want %q", done.stdout, want)
	}
	g.undone(t, hv.StateRunning, time.Now())
	mustRun(t, g.Guest)
}
