package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
	"snap/dump"
)

// minMemory is what the buffers of a dump need: two frames and what they are
// compressed to, and something to work with.
const minMemory = 16 << 20

// fileFlags are the flags of every command that writes a dump.
type fileFlags struct {
	outputFlags
	encrypt  encryptFlags
	compress choice[dump.Compression] // empty: the name decides
	level    choice[dump.Level]
	verify   choice[dump.Verification]
	cpus     int
	memory   string
	manifest bool
	plainSum bool
	signKey  string // a file, empty for none
	trace    string // a file, empty for none

	summary string // a file, empty for none

	traceGiven, summaryGiven *pflag.Flag // of those

	account *summaryFile // what summary names
}

// addTo gives cmd the flags. output is where the dump goes if nobody says so.
func (f *fileFlags) addTo(cmd *cobra.Command, a *app, output string) {
	fl := cmd.Flags()
	f.outputFlags.addTo(cmd, "", fmt.Sprintf("; {domain} and {time} stand for those\n(default %s)", output))
	addChoice(cmd, &f.compress, "compress", dump.Compressions(),
		fmt.Sprintf("%s (default by the name's ending, else %s)", alternatives(words(dump.Compressions())), dump.Compressions()[0]))
	f.compress.value = ""
	fl.Lookup("compress").DefValue = ""
	addChoice(cmd, &f.level, "level", dump.Levels(), alternatives(words(dump.Levels())))
	addChoice(cmd, &f.verify, "verify", dump.Verifications(), verifyUsage())
	f.encrypt.addTo(cmd)
	addRequireFlag(cmd, a, "write no guest memory in clear anywhere, and let none get on a swap disk")
	fl.IntVar(&f.cpus, "cpus", 0, "processors that snap may use (default all)")
	fl.StringVar(&f.memory, "memory", "256MiB", "memory that snap may use for buffers")
	fl.BoolVar(&f.manifest, "manifest", true, "write the summary to OUTPUT.json beside the dump")
	fl.BoolVar(&f.plainSum, "plain-sum", false, "note the SHA-256 of the plain dump in the summary, for snap verify --manifest and\nsnap expand --manifest: one processor hashes all of it, zeros too")
	fl.StringVar(&f.signKey, "sign-key", "", "sign the account with an ssh private key, a `file`, into OUTPUT.json.sig:\nssh-keygen -Y verify -n snap checks it")
	fl.StringVar(&f.trace, "trace", "", "write what snap does meanwhile to a new `file` that go tool trace shows: for whoever\nworks on snap's speed (--force replaces an older trace)")
	f.traceGiven = fl.Lookup("trace")
	fl.StringVar(&f.summary, "summary", "", "write the JSON summary to a new `file` (--force replaces an older one)")
	f.summaryGiven = fl.Lookup("summary")
	fl.BoolVar(&a.json, "json", false, "print a JSON summary on standard output, or as a line on standard error where the dump\ngoes to standard output; and progress as JSON lines")
}

// verifyUsage says what each way to verify does.
func verifyUsage() string {
	var b strings.Builder
	for _, v := range dump.Verifications() {
		fmt.Fprintf(&b, "%s: %s;\n", v, v.Doc())
	}
	return b.String() + "either way every byte of the file is then read back and compared with what was compressed;\nwhat can't be read back, such as standard output, is always " + string(dump.VerifyDecoded)
}

// options checks the flags and applies the limits on snap itself.
func (f *fileFlags) options(ctx context.Context, a *app) (*capture.Options, error) {
	memory, err := parseSize(f.memory)
	if err == nil && memory < minMemory {
		err = errSize
	}
	if err != nil {
		return nil, wrongValue("memory", f.memory, "16M or more: "+err.Error())
	}
	if err := f.encrypt.read(ctx, f.output); err != nil {
		return nil, err
	}
	if len(f.encrypt.to) == 0 {
		if err := a.mayWriteClear(); err != nil {
			return nil, err
		}
	}
	if err := f.check(a, f.kinds()); err != nil {
		return nil, err
	}
	if f.cpus < 0 {
		return nil, wrongValue("cpus", f.cpus, "a number of processors like 2, 0 for all")
	}
	if f.account, err = f.openSummary(); err != nil {
		return nil, err
	}
	signer, err := f.accountSigner(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.lockMemory(); err != nil {
		return nil, err
	}
	limits.Memory(memory)
	return &capture.Options{
		Write: dump.Options{
			Level: f.level.value, Verification: f.verify.value, PlainSum: f.plainSum, Workers: limits.CPUs(f.cpus),
			// A quarter is left for everything that is no buffer.
			Memory: int64(min(memory, 1<<40)) / 4 * 3,
		},
		Manifest: f.manifest && !f.toStdout(),
		Signer:   signer,
		Tool:     version,
		Log:      a.slogger(),
	}, nil
}

// target understands where the dump of s goes, and o is told what follows of that:
// the name's ending chooses the container unless --compress does.
func (f *fileFlags) target(a *app, s subject, o *capture.Options) (*target, error) {
	t, err := f.outputFlags.target(a, s, f.kinds())
	if err != nil {
		return nil, err
	}
	o.Write.Compression = f.containers()[t.kind]
	t.encryptTo = f.encrypt.to
	if f.toS3() {
		t.s3.Memory = o.Write.Memory / 3 // for what the server doesn't have yet
		o.Write.Memory -= t.s3.Memory
	}
	return t, nil
}

// containers are those that the dump may have, the first unless its name says
// otherwise.
func (f *fileFlags) containers() []dump.Compression {
	if f.compress.value != "" {
		return []dump.Compression{f.compress.value}
	}
	return dump.Compressions()
}

func (f *fileFlags) kinds() []fileKind {
	var kinds []fileKind
	for _, c := range f.containers() {
		k := dumpFile(c)
		if len(f.encrypt.to) > 0 {
			k = encryptedFile(k)
		}
		kinds = append(kinds, k)
	}
	return kinds
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
