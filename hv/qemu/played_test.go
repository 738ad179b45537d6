package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// played is a QEMU that a test plays, with what carries its monitor and with its
// manager: a guest of 4 MiB that package vmstate has recordings of.
type played struct {
	t      *testing.T
	stream []byte // what it saves

	mu       sync.Mutex
	replies  map[string]string // by command, in place of its own
	asked    []string          // commands, in their order
	fd       *os.File          // that it was handed
	on       bool              // the capability
	status   string            // of the migration
	stopped  bool              // by itself
	job      error             // what CheckJob says
	gone     bool
	resumes  int
	migrates func() // runs when it is told to save, in place of saving
	looks    func() // runs when it is asked how far it is
	cancels  func() // runs when it is told to give up
}

var (
	_ Monitor = (*played)(nil)
	_ Manager = (*played)(nil)
)

const (
	playedUUID  = "01020304-0506-0708-090a-0b0c0d0e0f10"
	playedMtree = `FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000000000-000000000009ffff (prio 0, ram): pc.ram
  00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
  00000000000f0000-00000000000fffff (prio 1, rom): isa-bios
  0000000000100000-00000000003fffff (prio 0, ram): pc.ram @0000000000100000
`
	playedBlocks = `              Block Name    PSize              Offset               Used              Total
                  pc.ram    4 KiB  0x0000000000000000 0x0000000000400000 0x0000000000400000
    /rom@etc/acpi/tables    4 KiB  0x0000000000480000 0x0000000000020000 0x0000000000200000
                  pc.rom    4 KiB  0x0000000000440000 0x0000000000020000 0x0000000000020000
                 pc.bios    4 KiB  0x0000000000400000 0x0000000000010000 0x0000000000010000
   /rom@etc/table-loader    4 KiB  0x0000000000700000 0x0000000000001000 0x0000000000010000
      /rom@etc/acpi/rsdp    4 KiB  0x0000000000740000 0x0000000000001000 0x0000000000001000
`
)

// play returns such a QEMU and the guest that it runs.
func play(t *testing.T, recording string) (*played, *Guest) {
	t.Helper()
	q := &played{t: t, stream: recorded(t, recording+".stream"), replies: map[string]string{
		"info mtree -f":             playedMtree,
		"info ramblock":             playedBlocks,
		"query-memory-size-summary": `{"return":{"base-memory":4194304,"plugged-memory":0}}`,
		"query-memory-devices":      `{"return":[]}`,
		"query-kvm":                 `{"return":{"enabled":false,"present":true}}`,
		"query-version":             `{"return":{"qemu":{"major":10,"minor":0,"micro":2}}}`,
		"query-memdev":              `{"return":[{"id":"pc.ram","share":false}]}`,
	}}
	t.Cleanup(func() { q.drop() })
	return q, New(q, Options{Name: "played", UUID: playedUUID})
}

// drop has it let go of what it was handed.
func (q *played) drop() {
	if q.fd != nil {
		_ = q.fd.Close()
		q.fd = nil
	}
}

// HMP implements Monitor.
func (q *played) HMP(ctx context.Context, command string) (string, error) {
	return q.replies[command], ctx.Err()
}

// Shell implements Monitor.
func (q *played) Shell(command string) string { return "toy '" + command + "'" }

// QMP implements Monitor.
func (q *played) QMP(ctx context.Context, c Command) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var cmd struct {
		Execute   string `json:"execute"`
		Arguments struct {
			FDName       string `json:"fdname"`
			URI          string `json:"uri"`
			Capabilities []struct {
				State bool `json:"state"`
			} `json:"capabilities"`
		} `json:"arguments"`
	}
	if err := json.Unmarshal([]byte(c.JSON), &cmd); err != nil || cmd.Execute != c.Name {
		q.t.Errorf("command %q is called %q (%v)", c.JSON, c.Name, err)
	}
	if (c.File != nil) != (c.Name == "getfd") {
		q.t.Errorf("command %q came with the file %v", c.JSON, c.File)
	}
	q.asked = append(q.asked, c.Name)
	if reply, ok := q.replies[c.Name]; ok {
		return reply, nil
	}
	const done = `{"return":{}}`
	refuse := func(text string) (string, error) {
		return fmt.Sprintf(`{"error":{"class":"GenericError","desc":%q}}`, text), nil
	}
	switch c.Name {
	case "query-migrate-capabilities":
		return fmt.Sprintf(`{"return":[{"capability":"background-snapshot","state":%v}]}`, q.on), nil
	case "migrate-set-capabilities":
		q.on = cmd.Arguments.Capabilities[0].State
		return done, nil
	case "query-migrate":
		if q.looks != nil {
			q.looks()
		}
		return fmt.Sprintf(`{"return":{"status":%q,"downtime":12,"ram":{"total":4194304,"remaining":0},"error-desc":"no space left"}}`, q.status), nil
	case "migrate_cancel":
		if q.cancels != nil {
			q.cancels()
		}
		q.status = "cancelled"
		return done, nil
	case "getfd":
		fd, err := unix.FcntlInt(c.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		q.fd = os.NewFile(uintptr(fd), cmd.Arguments.FDName)
		return done, nil
	case "closefd":
		if q.fd == nil {
			return refuse("File descriptor named '" + cmd.Arguments.FDName + "' not found")
		}
		q.drop()
		return done, nil
	case "migrate":
		if q.fd == nil || cmd.Arguments.URI != "fd:"+q.fd.Name() {
			return refuse("no such descriptor")
		}
		q.save()
		return done, nil
	}
	return `{"error":{"class":"CommandNotFound","desc":"The command ` + c.Name + ` has not been found"}}`, nil
}

// save has it save its guest to what it was handed.
func (q *played) save() {
	if q.migrates != nil {
		q.migrates()
		return
	}
	q.status = "completed"
	if _, err := q.fd.Write(q.stream); err != nil {
		q.status = "failed"
	}
	q.drop()
}

// CheckJob implements Manager.
func (q *played) CheckJob(context.Context) error { return q.job }

// StoppedByQEMU implements Manager.
func (q *played) StoppedByQEMU(context.Context) (bool, error) { return q.stopped, nil }

// Resume implements Manager.
func (q *played) Resume(context.Context) error {
	q.resumes++
	q.stopped = false
	return nil
}

// Gone implements Manager.
func (q *played) Gone(context.Context) bool { return q.gone }

// asBefore demands that nothing of a snapshot is left.
func (q *played) asBefore(t *testing.T) {
	t.Helper()
	if q.on || q.fd != nil || q.stopped || q.status == "active" {
		t.Errorf("afterwards: capability on=%v, descriptor %v, stopped=%v, migration %q; want all as before", q.on, q.fd, q.stopped, q.status)
	}
}

// diary is a Keeper that writes down what it is told, and whether the capability
// was on then.
type diary struct {
	q    *played
	said []string
	fail error
	late error // of Freed

	progress int
}

func (k *diary) Hold(_ context.Context, why hv.Reason, _ time.Time) error {
	k.said = append(k.said, fmt.Sprintf("hold for %s, on=%v", why, k.q.on))
	return k.fail
}

func (k *diary) Freed() error {
	k.said = append(k.said, fmt.Sprintf("freed, on=%v", k.q.on))
	return k.late
}

// Progressed implements hv.Keeper.
func (k *diary) Progressed() { k.progress++ }

// TestMonitorErrors: what QEMU refuses is told from what it can't have said.
func TestMonitorErrors(t *testing.T) {
	for _, text := range []string{"", "{}", `{"return":null}`, "null", `{"return":7}`} {
		if v, err := decodeQMP[memorySizes](text); err == nil {
			t.Errorf("decodeQMP(%q) = %v; want an error", text, v)
		}
	}
	q, g := play(t, "qemu-10.0-q35")
	delete(q.replies, "query-kvm")
	if _, err := g.underKVM(t.Context()); err == nil || !strings.Contains(err.Error(), `query-kvm on domain "played"`) {
		t.Errorf("underKVM() of a QEMU that doesn't know = %v; want its command and the guest", err)
	} else if r, ok := errors.AsType[*RefusedError](err); !ok || r.Class != "CommandNotFound" {
		t.Errorf("underKVM() of a QEMU that doesn't know = %v; want a %T", err, r)
	}
	long := strings.Repeat(" ", maxReply)
	for _, command := range []string{"info mtree -f", "info ramblock", "query-memory-devices"} {
		q, g := play(t, "qemu-10.0-q35")
		q.replies[command] += long
		if m, err := g.RAMMap(t.Context()); err == nil || !strings.Contains(err.Error(), "exceeds") {
			t.Errorf("RAMMap() with a reply of %d bytes to %s = %v, %v; want that it is too long", len(q.replies[command]), command, m.runs, err)
		}
	}
}

// TestAsksNothingElse: reading changes nothing.
func TestAsksNothingElse(t *testing.T) {
	q, g := play(t, "qemu-10.0-q35")
	q.replies["info registers -a"] = string(readFile(t, "vmstate/testdata/qemu-10.0-q35.registers.txt"))
	q.replies["query-cpus-fast"] = `{"return":[{"cpu-index":0,"thread-id":-1},{"cpu-index":1,"thread-id":-1}]}`
	ram, err := g.RAM(t.Context())
	if want := uint64(4<<20-0x60000) >> 12; err != nil || ram.Pages() != want {
		t.Errorf("RAM() = %v, %v; want %d pages", ram, err, want)
	}
	regs, err := g.Registers(t.Context())
	if err != nil || len(regs) != 2 {
		t.Errorf("Registers() = %d processors, %v; want 2", len(regs), err)
	}
	if why, err := g.WhyNoSnapshot(t.Context()); !errors.Is(err, hv.ErrUnsupported) || why != "" {
		t.Errorf("WhyNoSnapshot() of processors without threads = %q, %v; want hv.ErrUnsupported", why, err)
	}
	if slices.ContainsFunc(q.asked, func(name string) bool { return !strings.HasPrefix(name, "query-") }) {
		t.Errorf("QEMU was told %q; want queries alone", q.asked)
	}
}
