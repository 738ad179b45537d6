package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// section is what was measured with one guest.
type section struct {
	group

	About string
}

// report is all of a run.
type report struct {
	Date     time.Time
	Machine  string
	Load     string // before the run
	Rounds   int
	Sections []section
	Goals    []goal
	Notes    []string
}

// Files of a report.
const (
	tableFile = "peers.md"
	plotFile  = "peers.svg"
)

// write writes the report to a folder, and the table to out as well.
func (r *report) write(folder string, out io.Writer) error {
	table, err := os.Create(filepath.Join(folder, tableFile))
	if err != nil {
		return err
	}
	r.table(io.MultiWriter(table, out))
	if err := table.Close(); err != nil {
		return err
	}
	svg, err := os.Create(filepath.Join(folder, plotFile))
	if err != nil {
		return err
	}
	var groups []group
	for _, s := range r.Sections {
		groups = append(groups, s.group)
	}
	err = plot(svg, fmt.Sprintf("What a dump takes (medians of %d, %s)", r.Rounds, r.Date.Format("2 January 2006")), groups)
	return errors.Join(err, svg.Close())
}

// table writes the report in Markdown.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, `# Dumps beside their peers and their limits

Written by %smake bench%s on %s: medians of %d, of programs that take turns. Files are in
memory. Each file of snap's was verified once more after the first round, and each of
libvirt's looked at. [dump.md](dump.md) says what is measured.

%s The load before was %s.

![what a dump takes](%s)

`, "`", "`", r.Date.UTC().Format("2 January 2006, 15:04 UTC"), r.Rounds, r.Machine, r.Load, plotFile)
	goalTable(w, r.Goals)
	for _, s := range r.Sections {
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", s.Title, s.About)
		tableOf(w, s.Rows)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
}

// loadNow is the load of the last minute.
func loadNow() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	return strings.Fields(string(text))[0]
}

// describeMachine says what was measured on, in sentences.
func describeMachine(ctx context.Context) string {
	said := func(pattern, text string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return strings.TrimSpace(m[1])
		}
		return "?"
	}
	of := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	file := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		return string(text)
	}
	var kib int
	_, _ = fmt.Sscan(said(`MemTotal:\s*(\d+)`, file("/proc/meminfo")), &kib)
	return fmt.Sprintf("%d processors (%s), %d GiB of memory, Linux %s, QEMU %s, libvirt %s, zstd %s.",
		runtime.NumCPU(), said(`model name\s*: (.*)`, file("/proc/cpuinfo")), (kib+1<<19)>>20, strings.TrimSpace(of("uname", "-r")),
		said(`version ([0-9.]+)`, of("qemu-system-x86_64", "--version")), strings.TrimSpace(of("virsh", "--version")),
		said(`v([0-9.]+)`, of("zstd", "--version")))
}
