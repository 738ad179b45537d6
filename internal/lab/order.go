package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// BugCheck is what a lab guest that panics leaves in KiBugCheckData (and of its processors
// what ntlab.Image.Crash says): a page fault in
// a driver, DRIVER_IRQL_NOT_LESS_OR_EQUAL (bugcodes.h), and its four parameters.
var BugCheck = [5]uint64{0xD1, 0x28, 2, 1, 0xFFFF_F804_1234_5678}

// panicWrites is what a guest that panics leaves in its memory: its processors'
// contexts, and then the bug check.
func panicWrites(im *ntlab.Image) []boot.Write {
	var out []boot.Write
	for i, context := range im.Crash(BugCheck).Contexts {
		out = append(out, boot.Write{At: im.Truth.Processors[i].Context, Bytes: context})
	}
	data, _ := im.Symbol("KiBugCheckData") // every kernel has it
	var b []byte
	for _, v := range BugCheck {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(out, boot.Write{At: data, Bytes: b})
}

// Order tells the guest to stop itself, and returns when it was told. Only root can.
func (g *Guest) Order(ctx context.Context, o boot.Order) error {
	if err := g.setQword(ctx, g.Boot.Order, uint64(o)); err != nil {
		return fmt.Errorf("order %d to %s: %w", o, g.Name, err)
	}
	return nil
}

// hostAddress is the answer of QEMU's monitor to gpa2hva.
var hostAddress = regexp.MustCompile(`is (0x[0-9a-f]+)`)

// setQword writes 8 bytes of the guest's memory by way of QEMU's.
func (g *Guest) setQword(ctx context.Context, at phys.Addr, v uint64) error {
	text, err := g.Virsh(ctx, "qemu-monitor-command", g.Name, "--hmp", fmt.Sprintf("gpa2hva %#x", uint64(at)))
	if err != nil {
		return err
	}
	m := hostAddress.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("find %#x in QEMU: monitor said %q", uint64(at), text)
	}
	hva, err := strconv.ParseInt(m[1], 0, 64)
	if err != nil {
		return err
	}
	pid, err := g.PID()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, v), hva)
	return errors.Join(err, f.Close())
}
