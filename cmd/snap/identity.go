package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"snap/input"
)

// addIdentityFlag gives cmd the flag that names private keys, with which encrypted
// files are read.
func addIdentityFlag(cmd *cobra.Command, a *app) {
	cmd.Flags().StringArrayVar(&a.identities, "identity", nil,
		"`file` with the private key to an encrypted input: of age's, or an ssh key without a\npassphrase; repeatable")
}

// decryptInput takes away encryption from a file, if it has one. f is closed if it fails.
func (a *app) decryptInput(ctx context.Context, f *input.File) (*input.File, error) {
	is, err := input.Encrypted(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !is {
		return f, nil
	}
	keys, err := a.keys(ctx)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	inside, err := input.Decrypt(f, keys)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return inside, nil
}

// keys reads the private keys once that were named.
func (a *app) keys(ctx context.Context) ([]input.Identity, error) {
	for _, path := range a.identities[a.keysRead:] {
		some, err := input.ReadIdentities(ctx, path)
		if err != nil {
			return nil, keyFileError(fmt.Errorf("--identity %s: %w", path, err), path)
		}
		a.identityKeys = append(a.identityKeys, some...)
		a.keysRead++ // a pipe can be read but once
	}
	return a.identityKeys, nil
}

// keyFileError is an error of a file with keys, with advice about that file where the
// file is all that is wrong.
func keyFileError(err error, path string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return next(err, "name a file with keys that you may read: ls -l %s", shellPath(path))
	}
	return err
}

// lockedAdvice is what to do about an encrypted file that no key opened.
func lockedAdvice(c call, err error) string {
	e, _ := errors.AsType[*input.LockedError](err)
	switch {
	case strings.Contains(strings.Join(e.To, " "), "passphrase"):
		return "age asks for the passphrase: age -d -o OUT " + shellPath(e.Path)
	case !c.has("identity"):
		return "decrypt it where the key is: age -d -i KEYFILE -o OUT " + shellPath(e.Path)
	case e.Keys == 0:
		return "name the file with the private key: --identity KEYFILE"
	}
	return "name the file with the right private key: --identity KEYFILE; encrypted_to in the manifest beside the dump says whose it is, and age-keygen -y KEYFILE prints a key's public one"
}

// identityAdvice is what to do about a file that has no private key.
func identityAdvice(_ call, err error) string {
	e, _ := errors.AsType[*input.IdentityError](err)
	return strings.ReplaceAll(e.Next, "FILE", shellPath(e.Path))
}
