package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"snap/dump"
	"snap/hv"
	"snap/hv/libvirt"
	"snap/phys"
)

// limitCommand has this program measure a limit, in a process that does nothing else.
const limitCommand = "limit"

// What is read, and what is compressed, at one time: as snap does.
const (
	readBytes  = 4 << 20
	frameBytes = dump.DefaultFrameSize
)

// limitOf is a limit of the guest: what its pages take to be read, to be compressed
// from memory at a level, or to be read through libvirt.
func (b *bench) limitOf(name, what, level string) contender {
	return contender{name: name, limit: true, run: func(ctx context.Context) (s sample, err error) {
		if what == "read" { // as a copy does; what is compressed is the same anyway
			if _, err := b.guest.Virsh(ctx, "suspend", b.guest.Name); err != nil {
				return s, err
			}
			defer func() {
				_, e := b.guest.Virsh(context.WithoutCancel(ctx), "resume", b.guest.Name)
				err = errors.Join(err, e)
			}()
		}
		self, err := os.Executable()
		if err != nil {
			return s, err
		}
		_, out, err := child(ctx, self, limitCommand, "-domain", b.guest.Name, "-uri", b.guest.URI, "-what", what, "-level", level)
		if err != nil {
			return s, err
		}
		return s, json.Unmarshal(out, &s)
	}}
}

// limit is this program when it measures a limit: it prints a sample as JSON.
func limit(args []string) error {
	fl := flag.NewFlagSet(limitCommand, flag.ContinueOnError)
	domain := fl.String("domain", "", "")
	uri := fl.String("uri", "", "")
	what := fl.String("what", "read", "")
	level := fl.String("level", "", "")
	if err := fl.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	conn, err := libvirt.Connect(ctx, *uri)
	if err != nil {
		return err
	}
	defer conn.Close()
	vm, err := conn.LookupDomain(ctx, *domain)
	if err != nil {
		return err
	}
	defer vm.Close()
	mechanism := hv.MechanismDirect
	if *what == "peek" {
		mechanism = hv.MechanismPeek
	}
	mem, err := vm.OpenMemory(ctx, mechanism)
	if err != nil {
		return err
	}
	defer mem.Close()
	s, err := measureLimit(ctx, mem, *what, *level)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// measureLimit measures one of the limits of mem.
func measureLimit(ctx context.Context, mem hv.Memory, what, level string) (sample, error) {
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return sample{}, err
	}
	size := set.Pages() << phys.PageShift
	to, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return sample{}, err
	}
	_ = unix.Madvise(to, unix.MADV_HUGEPAGE)
	clear(to) // which is memory that is there, from now on
	read := func() error { return readAll(ctx, mem, set, to) }
	switch what {
	case "read", "peek":
		return timed(size, read)
	case "compress":
		if err := read(); err != nil {
			return sample{}, err
		}
		encoders, err := newEncoders(level)
		if err != nil {
			return sample{}, err
		}
		return timed(size, func() error { return compressAll(encoders, to) })
	}
	return sample{}, fmt.Errorf("there is no limit %q", what)
}

// timed measures what f takes.
func timed(size uint64, f func() error) (sample, error) {
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return sample{}, err
	}
	start := time.Now()
	if err := f(); err != nil {
		return sample{}, err
	}
	took := time.Since(start)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		return sample{}, err
	}
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return sample{Took: took, CPU: time.Duration(cpu), Bytes: size}, nil
}

// inParts has each of n parts done by whichever processor is idle.
func inParts(n int, do func(worker, part int) error) error {
	var next atomic.Int64
	var group errgroup.Group
	for worker := range runtime.NumCPU() {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(worker, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// readAll reads the pages of set to one place after the other.
func readAll(ctx context.Context, mem phys.Reader, set phys.Runs, to []byte) error {
	type part struct {
		at phys.Addr
		to []byte
	}
	var parts []part
	for _, r := range set {
		for at := r.Base.Addr(); at < r.End().Addr(); at += readBytes {
			n := min(readBytes, uint64(r.End().Addr()-at))
			parts = append(parts, part{at, to[:n]})
			to = to[n:]
		}
	}
	return inParts(len(parts), func(_, i int) error { return mem.ReadPhys(ctx, parts[i].to, parts[i].at) })
}

// newEncoders returns an encoder for each processor, set up as those of the zstd
// container are.
func newEncoders(level string) ([]*zstd.Encoder, error) {
	speed, ok := map[string]zstd.EncoderLevel{
		string(dump.LevelFastest): zstd.SpeedFastest, string(dump.LevelDefault): zstd.SpeedDefault,
		string(dump.LevelBetter): zstd.SpeedBetterCompression, string(dump.LevelBest): zstd.SpeedBestCompression,
	}[level]
	if !ok {
		return nil, fmt.Errorf("level %q is none of the library's", level)
	}
	var all []*zstd.Encoder
	for range runtime.NumCPU() {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(frameBytes), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true))
		if err != nil {
			return nil, err
		}
		all = append(all, z)
	}
	return all, nil
}

// compressAll compresses b in frames of which nothing is kept.
func compressAll(encoders []*zstd.Encoder, b []byte) error {
	room := make([][]byte, len(encoders))
	for i := range room {
		room[i] = make([]byte, 0, 2*frameBytes)
	}
	return inParts((len(b)+frameBytes-1)/frameBytes, func(worker, i int) error {
		encoders[worker].EncodeAll(b[i*frameBytes:min((i+1)*frameBytes, len(b))], room[worker])
		return nil
	})
}
