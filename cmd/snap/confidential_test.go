package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"snap/internal/lab"
)

// encrypting stands between snap and a libvirtd of the lab's: what a domain's XML is
// asked for says that its memory is encrypted. A processor that does it is not to be
// had everywhere, and QEMU starts no such guest without one.
type encrypting struct {
	uri string

	mu   sync.Mutex
	kind string // of launchSecurity, empty for none
	xmls int    // that were changed
}

// encrypt makes the daemon that c leads to one of confidential guests, for the
// length of the test.
func encrypt(t *testing.T, c *lab.Connection) *encrypting {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	e := &encrypting{uri: "qemu+unix:///system?socket=" + path}
	var all sync.WaitGroup
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	all.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", c.Socket)
			if err != nil {
				t.Errorf("reach the lab's libvirtd: %v", err)
				_ = from.Close()
				continue
			}
			all.Go(func() {
				_, _ = io.Copy(to, from) // until snap has ended
				_ = to.Close()
			})
			all.Go(func() {
				if err := e.relay(from, to); errors.Is(err, errNoMessage) {
					t.Errorf("relay what libvirtd says: %v", err)
				} // else one of them has hung up, wherever in a message
				_ = from.Close()
			})
		}
	})
	return e
}

func (e *encrypting) as(kind string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kind, e.xmls = kind, 0
}

func (e *encrypting) changed() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.xmls
}

// errNoMessage is what can't be a message of libvirt's.
var errNoMessage = errors.New("no message has that length")

// relay passes on what libvirtd says, a message at a time: a length, six words, of
// which the first is the program, the third the procedure, the fourth 1 for a reply
// and the last 0 for a good one, and the reply's data (libvirt
// src/rpc/virnetprotocol.x; REMOTE_PROC_DOMAIN_GET_XML_DESC in remote_protocol.x).
func (e *encrypting) relay(w io.Writer, r io.Reader) error {
	const remoteProgram, getXML, head, most = 0x20008086, 14, 28, 32 << 20
	be := binary.BigEndian
	for {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return err
		}
		n := be.Uint32(length[:])
		if n < head || n > most {
			return fmt.Errorf("%w: %d bytes", errNoMessage, n)
		}
		m := append(length[:], make([]byte, n-4)...)
		if _, err := io.ReadFull(r, m[4:]); err != nil {
			return err
		}
		if be.Uint32(m[4:]) == remoteProgram && be.Uint32(m[12:]) == getXML && be.Uint32(m[16:]) == 1 && be.Uint32(m[24:]) == 0 {
			m = e.change(m, head)
		}
		if _, err := w.Write(m); err != nil {
			return err
		}
	}
}

// change puts launchSecurity into the XML that a reply of so long a head has.
func (e *encrypting) change(m []byte, head int) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kind == "" {
		return m
	}
	be := binary.BigEndian
	xml := string(m[head+4:][:be.Uint32(m[head:])])
	xml = strings.Replace(xml, "</domain>", fmt.Sprintf("<launchSecurity type='%s'><policy>0x30000</policy></launchSecurity></domain>", e.kind), 1)
	out := be.AppendUint32(m[:head:head], uint32(len(xml)))
	out = append(out, xml...)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	be.PutUint32(out, uint32(len(out)))
	e.xmls++
	return out
}

// TestConfidentialGuest: a guest whose memory is encrypted for the host is refused by
// dump, check and list, with the exit code for it, the reason and what to do.
func TestConfidentialGuest(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "confidential", MemoryMiB: 256, CPUs: 1, Seed: 10})
	e := encrypt(t, g.Connection)
	out := filepath.Join(t.TempDir(), "out.dmp.zst")
	for _, kind := range []string{"sev", "sev-snp", "tdx", "s390-pv"} {
		e.as(kind)
		why, next := "launch security "+kind+" encrypts the guest's memory: confidential guest", "take the dump inside the guest"
		for _, flags := range [][]string{{"dump", g.Name, "-o", out}, {"dump", g.Name, "-o", out, "--source", "peek"}, {"dump", g.Name, "-o", out, "--mode", "live"}, {"check", g.Name, "-o", out}} {
			r := runSnap(t, g.Connection, flags[0], append(flags[1:], "-c", e.uri, "--log-format", "console")...).want(t, exitConfidential)
			if _, advice, ok := strings.Cut(r.stderr, "\nnext: "); !strings.Contains(r.stderr, why) || !ok || !strings.Contains(advice, next) {
				t.Errorf("%s: snap %q says %q; want %q, and %q to do next", kind, flags, r.stderr, why, next)
			}
			if flags[0] == "check" && !strings.Contains(r.stdout, fmt.Sprintf("would NOT work: exit code %d", exitConfidential)) {
				t.Errorf("%s: snap check says %q; want its exit code", kind, r.stdout)
			}
		}
		r := runSnap(t, g.Connection, "list", "-c", e.uri, "--json").want(t, exitOK)
		var list []struct{ Name, Guest, Why string }
		if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
			t.Fatalf("snap list says %q: %v", r.stdout, err)
		}
		seen := false
		for _, d := range list {
			if seen = seen || d.Name == g.Name; d.Name == g.Name && !strings.Contains(d.Guest, "confidential") {
				t.Errorf("%s: snap list says %+v; want a confidential guest", kind, d)
			}
		}
		if !seen || e.changed() == 0 {
			t.Errorf("%s: snap list says %q after %d changes; want the guest", kind, r.stdout, e.changed())
		}
		mustRun(t, g)
	}
	e.as("")
	runSnap(t, g.Connection, "dump", g.Name, "-o", out, "-q", "-c", e.uri).want(t, exitOK) // what stands between is not what is refused
}
