package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"snap/manifest"
)

// errNoManifest is the failure to show the manifest of a dump that carries none.
var errNoManifest = errors.New("there is no manifest inside this dump")

// infoManifest prints the manifest that the dump at path carries, as it is stored.
func (a *app) infoManifest(ctx context.Context, path string) error {
	f, err := a.openDump(ctx, path, "", false)
	if err != nil {
		return err
	}
	defer f.Close()
	doc := f.Metadata()
	if len(doc) == 0 {
		return next(fmt.Errorf("%w: its container is %s", errNoManifest, f.Container().Compression),
			"only dumps in the zstd container that snap dump or convert made carry one; look beside the dump: %s", shellPath(path+".json"))
	}
	if _, err := manifest.Decode(doc); err != nil {
		return next(err, "%s tells whether the dump itself is whole", shellCommand("snap verify", nil, path))
	}
	var out bytes.Buffer
	if err := json.Indent(&out, doc, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err = a.stdout.Write(plainJSON(out.Bytes()))
	return err
}

// plainJSON makes a JSON document safe for a terminal without changing what it
// says: whatever isn't graphic is written as \u and digits. Such characters can be
// in strings alone, where the two are the same.
func plainJSON(doc []byte) []byte {
	out := make([]byte, 0, len(doc))
	for len(doc) > 0 {
		r, n := utf8.DecodeRune(doc)
		switch {
		case r == '\n' || r != utf8.RuneError && unicode.IsGraphic(r):
			out = append(out, doc[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default: // broken UTF-8 too, which JSON readers take for U+FFFD
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		doc = doc[n:]
	}
	return out
}
