package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"snap/cmd/snap/internal/outlet"
	"snap/input"
	"snap/store"
)

// stdoutDestination is the -o value that means standard output.
const stdoutDestination = "-"

// outputFlags are those of every command that writes a file: where to, and whether
// it may replace another one.
type outputFlags struct {
	output string
	given  *pflag.Flag // of output
	force  bool
	retain retainFlags
}

// addTo gives cmd the flags. byDefault is where the file goes if nobody says so; ""
// leaves that to the target.
func (f *outputFlags) addTo(cmd *cobra.Command, byDefault, usage string) {
	fl := cmd.Flags()
	fl.StringVarP(&f.output, "output", "o", byDefault, fmt.Sprintf("`dest`: %s%s", alternatives(store.Forms()), usage))
	fl.BoolVar(&f.force, "force", false, "replace an existing output file")
	f.given = fl.Lookup("output")
	f.retain.addTo(fl)
}

// toStdout reports whether the file goes to standard output.
func (f *outputFlags) toStdout() bool { return store.IsStdout(f.output) }

// toS3 reports whether the file goes to a bucket.
func (f *outputFlags) toS3() bool { return store.IsS3(f.output) }

// subject is what a command makes a file of.
type subject struct {
	name string // stands for {domain} and {input} in -o
	made string // what the file is called in a folder, but for its ending; with {time}
	path string // of the input, which is never the output; "" of a domain
}

// ofDomain is the subject of a dump, or of a header.
func ofDomain(name string) subject { return subject{name: name, made: "{domain}-{time}"} }

// ofFile is the subject of a file that is read.
func ofFile(path string) subject {
	return subject{name: inputName(path), made: "{input}-{time}", path: path}
}

// inputName is what a file is called without what its name says of its kind.
func inputName(path string) string {
	if path == input.Stdin {
		return "stdin"
	}
	base := withoutSuffix(filepath.Base(path))
	return strings.TrimSuffix(base, extension(base))
}

// target is where a command's file goes: -o as it was understood, before anything
// is touched. One kind of target serves all commands.
type target struct {
	dest string // for store.Open
	name string // of the file, where dest is a folder
	kind int    // of those that the file may be

	encryptTo []store.Recipient // none for a file in clear
	s3        store.S3

	keepLocal string // a folder for what a bucket doesn't get, "" for none
}

// check refuses what is wrong with -o whatever the subject is.
func (f *outputFlags) check(a *app, kinds []fileKind) error {
	if _, err := f.retain.parse(f.toS3()); err != nil {
		return err
	}
	switch {
	case f.given.Changed && f.output == "":
		return usageError("-o is empty; name a file or folder, or leave it out")
	case f.toStdout() && isTerminal(a.stdout):
		return usageError("standard output is a terminal, which a dump would garble: name a file with -o")
	case f.toStdout():
		return nil
	}
	if scheme, rest, ok := strings.Cut(f.output, "://"); ok && schemeWord.MatchString(scheme) && !f.toS3() {
		err := usageError("-o is %s://%s; there is no such kind of place, only %s", scheme, rest, alternatives(store.Forms()))
		return next(err, "write to standard output, and let another program take it there: -o - | …")
	}
	for _, word := range templateWord.FindAllString(f.output, -1) {
		if _, ok := (subject{}).words()[word]; !ok {
			return usageError("-o has %s in it; what can stand there is {domain}, {input} and {time}", word)
		}
	}
	if strings.Contains(f.output, "{") {
		return nil // judged when it is known what stands there
	}
	_, err := f.choose(f.output, kinds)
	return err
}

var (
	schemeWord   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*$`) // RFC 3986 3.1
	templateWord = regexp.MustCompile(`\{[a-z_]*\}`)
)

// words are what stands for the templates.
func (s subject) words() map[string]string {
	name := fileName(s.name)
	return map[string]string{"{domain}": name, "{input}": name, "{time}": time.Now().UTC().Format("20060102T150405Z")}
}

// fill puts words in the place of templates.
func (s subject) fill(text string) string {
	var pairs []string
	for template, word := range s.words() {
		pairs = append(pairs, template, word)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// target understands -o for a file that may be of one of the kinds, the first of
// which it is unless its name says otherwise. What the name says and the file isn't
// is an error, as is a destination that no file can have.
func (f *outputFlags) target(a *app, s subject, kinds []fileKind) (*target, error) {
	if s.path != "" && !f.toStdout() && sameFile(s.path, s.fill(f.output)) {
		return nil, usageError("%s is also the output: name another file with -o", s.path)
	}
	if err := f.check(a, kinds); err != nil {
		return nil, err
	}
	t := &target{dest: f.output, s3: a.s3.options()}
	t.s3.Retain, _ = f.retain.parse(f.toS3()) // which was checked
	t.s3.Governance, t.keepLocal = f.retain.governance, f.retain.local
	if f.toStdout() {
		return t, nil
	}
	t.dest = s.fill(f.output)
	if isFolder(t.dest) {
		t.name = s.fill(s.made) + kinds[0].endings[0]
		return t, nil
	}
	if err := notSpecial(t.dest); err != nil {
		return nil, err
	}
	var err error
	t.kind, err = f.choose(t.dest, kinds)
	return t, err
}

// choose returns which of the kinds a file of that path is, the first where the
// name doesn't say.
func (f *outputFlags) choose(path string, kinds []fileKind) (int, error) {
	if isFolder(path) {
		return 0, nil
	}
	ending := endingOf(filepath.Base(path))
	for i, k := range kinds {
		if k.takes(ending) {
			return i, nil
		}
	}
	var names []string
	for _, k := range kinds {
		names = append(names, fmt.Sprintf("%s (%s)", k.what, k.endings[0]))
	}
	err := usageError("-o is %s, but what would be written there is %s", path, alternatives(names))
	return 0, next(err, "call it what it is: -o %s", shellWord(rightName(path, kinds[0])))
}

// isFolder reports whether a destination leaves the name of the file to others.
func isFolder(dest string) bool {
	if store.IsS3(dest) {
		return strings.HasSuffix(dest, "/") || strings.Count(dest, "/") == strings.Count("s3://", "/")
	}
	info, err := os.Stat(dest)
	return dest == "" || strings.HasSuffix(dest, "/") || err == nil && info.IsDir()
}

// notSpecial refuses a destination that is there and neither a folder nor a regular
// file: files get their names when they are whole, which no device can have.
func notSpecial(dest string) error {
	info, err := os.Lstat(dest)
	if err != nil || info.Mode().IsRegular() {
		return nil //nolint:nilerr // what isn't there is for the place to judge
	}
	err = fmt.Errorf("write to %s: it is %s, and no file can get that name", dest, special(info.Mode()))
	if info.Mode()&fs.ModeSymlink != 0 && !strings.HasPrefix(filepath.Clean(dest), "/dev/") {
		return next(err, "name what the link leads to, or another file")
	}
	return next(err, "write to standard output, and redirect that: -o - >%s", shellWord(dest))
}

// special names a kind of file that isn't regular.
func special(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

// open opens the place of the target, and returns it with the file's name.
func (t *target) open(a *app, o store.Options) (store.Place, string, error) {
	o.Stdout = a.stdout
	if f := outlet.File(a.stdout); f != nil {
		o.Stdout = f // which may be a file with holes
	}
	o.S3 = t.s3
	o.Note = func(text string) { a.log.Warn().Msg(printable(text)) }
	place, name, err := store.Open(t.dest, o)
	if err != nil {
		err = fmt.Errorf("write to %s: %w", t.dest, err)
		if p, ok := errors.AsType[*store.Error](err); ok && errors.Is(err, fs.ErrNotExist) {
			err = next(err, "make the folder first: mkdir -p %s", shellPath(p.Path))
		}
		if errors.Is(err, store.ErrNotFolder) {
			err = next(err, "name a file in a folder with -o")
		}
		return nil, "", err
	}
	if name == "" {
		name = t.name
	}
	if t.keepLocal != "" {
		place = store.KeepLocal(place, store.Folder(t.keepLocal, o), o.Note)
	}
	if len(t.encryptTo) > 0 {
		place, err = store.Encrypt(place, t.encryptTo...)
	}
	return place, name, err
}

// placeFor is target and open for a file of which no hash is wanted, and makes sure that
// it can have its name.
func (f *outputFlags) placeFor(ctx context.Context, a *app, s subject, kinds []fileKind) (store.Place, string, error) {
	to, err := f.target(a, s, kinds)
	if err != nil {
		return nil, "", err
	}
	place, name, err := to.open(a, store.Options{Force: f.force, NoSum: true})
	if err != nil {
		return nil, "", err
	}
	return place, name, place.Check(ctx, name)
}

// sameFile reports whether both paths name one existing file.
func sameFile(a, b string) bool {
	if store.IsS3(a) || store.IsS3(b) {
		return a == b
	}
	ia, err := os.Stat(a)
	if err != nil {
		return false
	}
	ib, err := os.Stat(b)
	return err == nil && os.SameFile(ia, ib)
}

// fileName makes the name of a domain or an input safe as part of a file name.
func fileName(domain string) string {
	safe := strings.Map(func(r rune) rune {
		if r < ' ' || r == '/' || r == 0x7f {
			return '_'
		}
		return r
	}, domain)
	if safe = strings.TrimLeft(safe, ".-"); safe == "" {
		return "_"
	}
	return safe
}
