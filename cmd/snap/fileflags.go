package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
	"snap/dump"
	"snap/store"
)

// fileFlags are the flags of every command that writes a dump.
type fileFlags struct {
	output   string
	given    *pflag.Flag // of output
	compress choice[dump.Compression]
	level    choice[dump.Level]
	force    bool
	cpus     int
	memory   string
	manifest bool
}

// addTo gives cmd the flags. output is where the dump goes if nobody says so.
func (f *fileFlags) addTo(cmd *cobra.Command, a *app, output string) {
	fl := cmd.Flags()
	fl.StringVarP(&f.output, "output", "o", "", fmt.Sprintf("`dest`: %s (default %s)", alternatives(store.Forms()), output))
	f.given = fl.Lookup("output")
	addChoice(cmd, &f.compress, "compress", dump.Compressions(), alternatives(words(dump.Compressions())))
	addChoice(cmd, &f.level, "level", dump.Levels(), alternatives(words(dump.Levels())))
	fl.BoolVar(&f.force, "force", false, "replace an existing output file")
	fl.IntVar(&f.cpus, "cpus", 0, "processors that snap may use (default all)")
	fl.StringVar(&f.memory, "memory", "256MiB", "memory that snap may use for buffers")
	fl.BoolVar(&f.manifest, "manifest", true, "write the summary to OUTPUT.json beside the dump")
	fl.BoolVar(&a.json, "json", false, "print a JSON summary on standard output, and progress as JSON lines")
}

// options checks the flags and applies the limits on snap itself.
func (f *fileFlags) options(a *app) (*capture.Options, error) {
	memory, err := parseMemory(f.memory)
	if err != nil {
		return nil, usageError("--memory is %q; %w", f.memory, err)
	}
	if f.given.Changed && f.output == "" {
		return nil, usageError("-o is empty; name a file or folder, or leave it out")
	}
	if f.cpus < 0 {
		return nil, usageError("--cpus is %d; it takes a number from 1, or 0 for all", f.cpus)
	}
	limits.Memory(memory)
	return &capture.Options{
		Write: dump.Options{
			Compression: f.compress.value, Level: f.level.value, Workers: limits.CPUs(f.cpus),
			// A quarter is left for everything that is no buffer.
			Memory: int64(min(memory, 1<<40)) / 4 * 3,
		},
		Manifest: f.manifest && f.output != stdoutDestination,
		Tool:     version,
		Log:      a.slogger(),
	}, nil
}

// stdoutDestination is the -o value that means standard output.
const stdoutDestination = "-"

// destination returns the place and the name for the dump of a domain. It makes
// sure that there is one before anything is asked of the guest.
func (a *app) destination(f *fileFlags, domain string, guardian store.Guardian) (store.Place, string, error) {
	if f.output == stdoutDestination && a.json {
		return nil, "", usageError("--json and -o - both want standard output")
	}
	at := time.Now().UTC().Format("20060102T150405Z")
	r := strings.NewReplacer("{domain}", fileName(domain), "{time}", at)
	dest := r.Replace(f.output)
	place, name, err := a.place(dest, store.Options{Force: f.force, Guardian: guardian})
	if name == "" {
		name = fmt.Sprintf("%s-%s.dmp%s", fileName(domain), at, f.compress.value.Suffix())
	}
	return place, name, err
}

// place opens the place that a destination names. A terminal is none for a dump.
func (a *app) place(dest string, o store.Options) (store.Place, string, error) {
	if dest == stdoutDestination && isTerminal(a.stdout) {
		return nil, "", usageError("standard output is a terminal: a dump would garble it")
	}
	o.Stdout = a.stdout
	place, name, err := store.Open(dest, o)
	if err != nil {
		err = fmt.Errorf("write to %s: %w", dest, err)
		if p, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrNotExist) {
			err = next(err, "make the folder first: mkdir -p %s", p.Path)
		}
	}
	return place, name, err
}

// fileName makes a domain's name safe as part of a file name.
func fileName(domain string) string {
	safe := strings.Map(func(r rune) rune {
		if r < ' ' || r == '/' || r == 0x7f {
			return '_'
		}
		return r
	}, domain)
	return strings.TrimLeft(safe, ".-")
}

// words turns words of a type of their own into plain ones.
func words[T ~string](of []T) []string {
	var out []string
	for _, w := range of {
		out = append(out, string(w))
	}
	return out
}

// comment is what the dump's header says about its making.
func comment() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return asciiComment("snap " + version + " on " + host)
}

// asciiComment makes text fit a header's comment field.
func asciiComment(text string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return ascii[:min(len(ascii), 127)]
}
