package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"snap/dump"
)

// levelNames are the levels of compression, the one of snap's default first.
func (b *bench) levelNames() []string {
	var names []string
	for _, l := range dump.Levels() {
		names = append(names, string(l))
	}
	return names
}

// hasFlag reports whether snap dump takes a flag.
func (b *bench) hasFlag(name string) bool {
	out, err := exec.Command(b.program, "dump", "--help").Output()
	return err == nil && strings.Contains(string(out), " "+name+" ")
}

// child runs a program to its end and returns what it took and wrote to its standard
// output. Its name is that of the error. An interrupt reaches it as one: snap lets its
// guest go.
func child(ctx context.Context, name string, args ...string) (s sample, out []byte, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	out, err = cmd.Output()
	s.Took = time.Since(start)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return s, nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, lines[len(lines)-1])
	}
	s.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.RSS = uint64(u.Maxrss) << 10
	}
	return s, out, nil
}

// summary is what a dump says of itself, in milliseconds.
type summary struct {
	Spooled    bool
	PauseMS    float64 `json:"pause_ms"`
	EstimateMS float64 `json:"pause_estimate_ms"`
	MostMS     float64 `json:"pause_estimate_max_ms"`
	Confidence string  `json:"pause_estimate_confidence"`
	DowntimeMS float64 `json:"downtime_ms"`
}

// dumpOnce has the program take a dump of the guest to the output.
func (b *bench) dumpOnce(ctx context.Context, program string, flags ...string) (sample, summary, error) {
	args := append([]string{
		"dump", b.guest.Name, "-c", b.guest.URI, "-o", b.output(), "--force", "--json", "--manifest=false",
		"--max-pause", "24h", "--spool", fmt.Sprintf("%dMiB", b.guest.Spec.MemoryMiB+256),
	}, flags...)
	s, out, err := child(ctx, program, args...)
	var sum summary
	if err != nil {
		return s, sum, err
	}
	if err := json.Unmarshal(out, &sum); err != nil {
		return s, sum, fmt.Errorf("%s's summary: %w", program, err)
	}
	s.Still = time.Duration((sum.PauseMS + sum.DowntimeMS) * float64(time.Millisecond))
	s.Bytes, err = sizeOf(b.output())
	return s, sum, err
}

// snap is a dump by snap, whose file has to verify.
func (b *bench) snap(name string, flags ...string) contender {
	return contender{
		name: name,
		run: func(ctx context.Context) (sample, error) {
			s, sum, err := b.dumpOnce(ctx, b.program, flags...)
			if err == nil && flags[1] == "pause" && !sum.Spooled {
				err = errors.New("the guest's pages were not copied first, which this is about")
			}
			return s, err
		},
		check: func(ctx context.Context) error {
			_, _, err := child(ctx, b.program, "verify", "-q", b.output())
			return err
		},
		may: flags[1] == "snapshot",
	}
}

// virsh is a dump by libvirt in a format, compressed as a whole after that if it is to
// be, whose file begins with magic. The guest stands still for all of the dump but
// the start of virsh.
func (b *bench) virsh(name, format, magic string, compressed bool) contender {
	return contender{
		name: name,
		run: func(ctx context.Context) (s sample, err error) {
			args := []string{"dump", "--memory-only", b.guest.Name, b.output()}
			if format != "" {
				args = append(args, "--format", format)
			}
			start := time.Now()
			if _, err := b.guest.Virsh(ctx, args...); err != nil {
				return s, err
			}
			s.Took = time.Since(start)
			s.Still = s.Took
			file := b.output()
			if compressed {
				z, _, err := child(ctx, "zstd", "-q", "-T0", "-1", "-f", file, "-o", file+".zst")
				if err != nil {
					return s, err
				}
				s.Took += z.Took
				file += ".zst"
			}
			s.Bytes, err = sizeOf(file)
			return s, err
		},
		check: func(context.Context) error { return beginsWith(b.output(), magic) },
		may:   format == "win-dmp",
	}
}

func sizeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	return uint64(st.Size), nil
}

// beginsWith fails if a file doesn't.
func beginsWith(path, magic string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, len(magic))
	if _, err := io.ReadFull(f, b); err != nil {
		return err
	}
	if string(b) != magic {
		return fmt.Errorf("%s begins with %q, not with %q", path, b, magic)
	}
	return nil
}
