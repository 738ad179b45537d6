package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Firmware is what a guest with nothing to boot stays in.
type Firmware string

// Firmwares.
const (
	BIOS Firmware = "bios" // SeaBIOS, which comes with QEMU
	UEFI Firmware = "uefi" // OVMF
)

// uefiImage is OVMF of Debian's package ovmf, code and variables in one, which
// needs no file of variables of its own.
const uefiImage = "/usr/share/ovmf/OVMF.fd"

// UpFirmware starts a guest that has nothing to boot and returns as soon as its
// processors run. Only the parts of s that any machine has count.
func UpFirmware(ctx context.Context, s Spec, kind Firmware) (*Guest, error) {
	if err := s.complete(); err != nil {
		return nil, fmt.Errorf("lab guest: %w", err)
	}
	var f files
	if kind == UEFI {
		f.firmware = uefiImage
		if _, err := os.Stat(uefiImage); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("lab guest %s: no firmware %s: %w", s.Name, uefiImage, errMissing)
		}
	}
	g, err := prepare(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, err)
	}
	path, err := g.writeXML(f)
	if err == nil {
		_, err = g.Virsh(ctx, "create", path)
	}
	if err != nil {
		return nil, fmt.Errorf("lab guest %s: %w", s.Name, errors.Join(err, g.Down()))
	}
	return g, nil
}
