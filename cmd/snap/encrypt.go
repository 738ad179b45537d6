package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"snap/input"
	"snap/store"
)

// encryptFlags say to whom a dump is encrypted.
type encryptFlags struct {
	keys []string // as they were given

	to []store.Recipient // whom they are of, once they were read
}

// addTo gives cmd the flags.
func (f *encryptFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.keys, "encrypt-to", nil,
		"encrypt the dump with age to a public `key`: age1…, age1pq1… (post-quantum), ssh-ed25519 …,\nssh-rsa …, or @FILE for all that a file lists; repeatable: each of them can decrypt it")
}

// recipientsFile begins a value that names a file with keys.
const recipientsFile = "@"

// read reads the keys. output is -o, which says that it is encrypted by its name.
func (f *encryptFlags) read(ctx context.Context, output string) error {
	if len(f.keys) == 0 && strings.HasSuffix(strings.ToLower(output), store.EncryptedSuffix) {
		err := usageError("-o is %s, and nothing says to whom it is to be encrypted", output)
		return next(err, "add --encrypt-to KEY, the public key of whoever is to open it (age-keygen -y KEYFILE prints that), or name a file that doesn't end in %s", store.EncryptedSuffix)
	}
	f.to = nil
	for _, key := range f.keys {
		path, isFile := strings.CutPrefix(key, recipientsFile)
		if !isFile {
			r, err := store.ParseRecipient(key)
			if err != nil {
				return fmt.Errorf("--encrypt-to: %w", err)
			}
			f.to = append(f.to, r)
			continue
		}
		some, err := readRecipients(ctx, path)
		if err != nil {
			return keyFileError(fmt.Errorf("--encrypt-to @%s: %w", path, err), path)
		}
		f.to = append(f.to, some...)
	}
	if len(f.to) == 0 {
		return nil
	}
	_, err := store.Encrypt(store.Folder("", store.Options{}), f.to...) // whether they go together
	if err != nil {
		return fmt.Errorf("--encrypt-to: %w", err)
	}
	return nil
}

// readRecipients reads a file with keys.
func readRecipients(ctx context.Context, path string) ([]store.Recipient, error) {
	f, err := input.OpenText(ctx, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return store.ReadRecipients(f)
}
