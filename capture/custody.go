package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"snap/dump"
	"snap/manifest"
)

// What CheckAccount makes, by the names that reports give it. They are stable.
const (
	CheckAccountDump   = "account: of this dump"
	CheckAccountHeader = "account: header"
	CheckAccountFile   = "account: file"
	CheckAccountPlain  = "account: plain dump"
)

// CheckAccount holds a dump, which open opens at path, against the account in doc: the
// file's length and SHA-256, the header's fields, what else the account says of the dump,
// and, if it has one, the SHA-256 of the plain dump. That reads the file once or twice;
// progress may be nil. The error is that doc is no account, or of reading the file; that
// the account is another dump's is a finding.
func CheckAccount(ctx context.Context, doc []byte, f *dump.File, path string, open Opener, progress *dump.Progress) ([]manifest.Check, error) {
	m, err := manifest.Decode(doc)
	if err != nil {
		return nil, err
	}
	checks := []manifest.Check{
		accountCheck(CheckAccountDump, "it names what is in the file", fits(m, f)),
		accountCheck(CheckAccountHeader, fmt.Sprintf("%d fields are as it says", len(m.Header.Fields)), sameHeader(m, f)),
	}
	whole, err := sameFile(ctx, m, path, open, progress)
	if err != nil {
		return nil, err
	}
	checks = append(checks, accountCheck(CheckAccountFile, "SHA-256 "+m.SHA256, whole))
	if m.PlainSHA256 == "" {
		return checks, nil
	}
	w, sum := dump.Summed(io.Discard)
	_, err = dump.Expand(ctx, f, w, progress)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		err = m.SamePlain(sum())
	}
	return append(checks, accountCheck(CheckAccountPlain, "SHA-256 "+m.PlainSHA256, err)), nil
}

func accountCheck(name, detail string, err error) manifest.Check {
	if err == nil {
		return manifest.Check{Name: name, OK: true, Detail: detail}
	}
	return manifest.Check{Name: name, Level: manifest.LevelFail, Detail: err.Error()}
}

// sameHeader holds the fields of the header that an account has against the dump's.
func sameHeader(m *manifest.Manifest, f *dump.File) error {
	h, err := f.Header()
	if err != nil {
		return err
	}
	have := map[string]string{}
	for _, v := range h.Fields() {
		if v.Set {
			have[v.Name] = v.Value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Header.Fields)) {
		if say := m.Header.Fields[name].Value; have[name] != say {
			return fmt.Errorf("%s is %q, and it says %q", clip(name), have[name], clip(say))
		}
	}
	if len(m.Header.Fields) == 0 {
		return errors.New("it says nothing of the header")
	}
	return nil
}

// sameFile holds the file at path against an account. whole is what was found, err that
// it can't be read.
func sameFile(ctx context.Context, m *manifest.Manifest, path string, open Opener, progress *dump.Progress) (whole, err error) {
	if m.SHA256 == "" {
		return errors.New("it has no SHA-256 of the file, as the account inside a dump, which can't: take the one that was written beside it"), nil
	}
	size := m.Bytes.Written
	sum, err := hashFile(ctx, open, path, size, progress)
	switch {
	case err != nil:
		return nil, err
	case sum == "":
		return fmt.Errorf("the file is not of the %d bytes that it says", size), nil
	case sum != m.SHA256:
		return fmt.Errorf("SHA-256 is %s, and it says %s", sum, m.SHA256), nil
	}
	return nil, nil
}
