package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/limits"
	"snap/hv"
)

// requireFlag is the flag under which snap writes no guest memory in clear anywhere.
const requireFlag = "require-encryption"

// What --require-encryption refuses.
var (
	// errInClear: something of the guest would be written that isn't encrypted.
	errInClear = errors.New("it would be written in clear, and --" + requireFlag + " forbids that")
	// errPeek: memory would be read by way of a file of libvirt's.
	errPeek = errors.New("libvirt would leave guest memory in a file of its cache folder, and --" + requireFlag + " forbids that")
	// errSwap: guest memory in the host's couldn't be kept off its swap disks.
	errSwap = errors.New("guest memory might get on a swap disk of this host, and --" + requireFlag + " forbids that")
)

// addRequireFlag gives cmd the flag. what is what it means for the command.
func addRequireFlag(cmd *cobra.Command, a *app, what string) {
	cmd.Flags().BoolVar(&a.requireEncryption, requireFlag, false, what)
}

// mayWriteClear fails if nothing may be written in clear.
func (a *app) mayWriteClear() error {
	if a.requireEncryption {
		return errInClear
	}
	return nil
}

// mechanism is how memory is read if asked is what the operator asked for: by nothing
// that leaves any of it on a disk, if that is required.
func (a *app) mechanism(asked hv.Mechanism) (hv.Mechanism, error) {
	switch {
	case !a.requireEncryption:
		return asked, nil
	case asked == hv.MechanismPeek:
		return "", errPeek
	}
	return hv.MechanismDirect, nil
}

// lockMemory keeps this process off the host's swap disks, if that is required.
func (a *app) lockMemory() error {
	if !a.requireEncryption {
		return nil
	}
	if err := limits.LockMemory(); err != nil {
		return fmt.Errorf("%w: %w", errSwap, err)
	}
	return nil
}

// mustNotSwap reports whether the host swaps and must not swap guest memory: then none
// may be where it can't be locked. host is its file system.
func (a *app) mustNotSwap(host fs.FS) (bool, error) {
	if !a.requireEncryption {
		return false, nil
	}
	swaps, err := limits.Swaps(host)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errSwap, err)
	}
	return swaps, nil
}

// mayExpandInMemory fails if what is expanded there might get on a swap disk: it is no
// memory of this process alone, and can't be locked.
func (a *app) mayExpandInMemory(host fs.FS) error {
	swaps, err := a.mustNotSwap(host)
	if err == nil && swaps {
		err = fmt.Errorf("what is compressed as a whole is expanded in memory: %w", errSwap)
	}
	return err
}

// inClearAdvice is what to do about what isn't encrypted.
func inClearAdvice(c call, _ error) string {
	if c.has("encrypt-to") {
		return "say to whom it is to be encrypted: --encrypt-to KEY, the public key of whoever is to open it (age-keygen -y KEYFILE prints that), or @FILE for a list of them"
	}
	return "do that on the machine of whoever has the key, where nothing requires encryption (SNAP_REQUIRE_ENCRYPTION)"
}
