package main

import (
	"context"
	"fmt"
	"io"

	"snap/capture"
	"snap/cmd/snap/internal/sshsig"
	"snap/input"
)

// signNamespace is what signatures of accounts are for: ssh-keygen -Y verify -n snap.
const signNamespace = "snap"

// maxKeyFile bounds a file with a private key: an RSA key of 16384 bits has some 13 KiB.
const maxKeyFile = 64 << 10

// accountSigner reads --sign-key; nil if none is named.
func (f *fileFlags) accountSigner(ctx context.Context) (capture.Signer, error) {
	switch {
	case f.signKey == "":
		return nil, nil
	case !f.manifest || f.toStdout():
		return nil, usageError("--sign-key signs the account beside the dump, and there will be none: name a file with -o, and leave out --manifest=false")
	}
	in, err := input.OpenText(ctx, f.signKey)
	if err != nil {
		return nil, fmt.Errorf("--sign-key: %w", err)
	}
	defer in.Close()
	b, err := io.ReadAll(io.LimitReader(in, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("--sign-key: read %s: %w", f.signKey, err)
	}
	key, err := sshsig.Parse(b)
	clear(b)
	if err != nil {
		return nil, fmt.Errorf("--sign-key: %s: %w", f.signKey, err)
	}
	return accountKey{key}, nil
}

// accountKey signs accounts.
type accountKey struct{ *sshsig.Signer }

// Sign implements capture.Signer.
func (k accountKey) Sign(account []byte) ([]byte, error) {
	return k.Signer.Sign(signNamespace, account)
}
