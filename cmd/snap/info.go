package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/table"
	"snap/dump"
	"snap/guest"
	"snap/header"
	"snap/manifest"
	"snap/phys"
)

func newInfoCommand(a *app) *cobra.Command {
	var all, inside bool
	cmd := &cobra.Command{
		Use:   "info [flags] FILE",
		Short: "Say what is in a dump: header, runs, processors, modules, processes",
		Long: `Say what is in a dump, plain or compressed, without expanding it: its header,
its ranges of memory, and the Windows in it, whether that shows its blue screen, and
what snap wrote of the dump when it took it: by which mode, on which host, of which
moment, when by the host's clock, and which pages stay out. That account is inside
the dump, or beside it (FILE.json) if its SHA-256 is the file's; it is the file's
word. A dump without one is of a moment that is not known.

With --manifest, print the manifest inside a dump instead: the account that snap
wrote when it took the dump. The file beside the dump (FILE.json) says more: when it
was finished, its hash and whether it was verified.`,
		Args:        oneArg("FILE"),
		Annotations: exitCodes(exitDenied),
		Example: "  snap info web01-20261122T010000Z.dmp.zst\n" +
			"  snap info --manifest web01-20261122T010000Z.dmp.zst | jq .excluded",
		RunE: func(cmd *cobra.Command, args []string) error {
			show := func() error { return a.info(cmd.Context(), args[0], all) }
			if inside {
				show = func() error { return a.infoManifest(cmd.Context(), args[0]) }
			}
			if err := show(); err != nil {
				return fmt.Errorf("info of %s: %w", args[0], err)
			}
			return nil
		},
	}
	addIdentityFlag(cmd, a)
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list unset and reserved header fields too")
	cmd.Flags().BoolVar(&inside, "manifest", false, "print the manifest inside the dump, as JSON, and nothing else")
	return cmd
}

// dumpInfo is what is in a dump.
type dumpInfo struct {
	File      string `json:"file"`
	Container string `json:"container"`
	FileSize  uint64 `json:"file_size"`
	Size      uint64 `json:"size"` // expanded
	Frames    int    `json:"frames,omitempty"`

	// Consistent: all pages are known to be of one point in time, by the account.
	Consistent  bool                 `json:"consistent"`
	Consistency manifest.Consistency `json:"consistency"`
	BugCheck    *crashInfo           `json:"bug_check"`
	Account     *accountInfo         `json:"account"`

	// GuestClock is what the guest took the time for, and GuestUptime for how long it
	// had been up, in seconds; missing where the header doesn't say.
	GuestClock  time.Time `json:"guest_clock,omitzero"`
	GuestUptime float64   `json:"guest_uptime_s,omitempty"`

	Header     []fieldInfo     `json:"header"`
	Runs       []runInfo       `json:"runs"`
	RunsMore   int             `json:"runs_more,omitempty"` // that are not listed
	Guest      *manifest.Guest `json:"guest,omitempty"`
	Processors []processorInfo `json:"processors,omitempty"`
	Modules    []moduleInfo    `json:"modules,omitempty"`
	Processes  []processInfo   `json:"processes,omitempty"`
	Notes      []string        `json:"notes,omitempty"` // what could not be read
}

// maxInfoRuns bounds the runs that are listed: of a dump with a bitmap there may be
// millions.
const maxInfoRuns = 1 << 16

type fieldInfo struct {
	Name   string `json:"name"`
	Offset int    `json:"offset"`
	Value  string `json:"value"`
	Set    bool   `json:"set"`

	kind header.Kind
}

type runInfo struct {
	FirstPage manifest.Hex `json:"first_page"` // PFN
	Pages     uint64       `json:"pages"`
}

type moduleInfo struct {
	Name string       `json:"name"`
	Base manifest.Hex `json:"base"`
	Size uint32       `json:"size"`
	Path string       `json:"path"`
}

type processInfo struct {
	Name     string       `json:"name"`
	PID      uint64       `json:"pid"`
	CR3      manifest.Hex `json:"cr3"`
	EPROCESS manifest.Hex `json:"eprocess"`
}

type processorInfo struct {
	Number int          `json:"number"`
	KPRCB  manifest.Hex `json:"kprcb"`
	RIP    manifest.Hex `json:"rip"`
	RSP    manifest.Hex `json:"rsp"`
	CS     uint16       `json:"cs"`
}

func (a *app) info(ctx context.Context, path string, all bool) error {
	f, err := a.openDump(ctx, path, "", false)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := f.Header()
	if err != nil {
		return err
	}
	account, err := a.readAccount(ctx, f, path)
	if err != nil {
		return err
	}
	d := gatherInfo(ctx, path, f, h)
	d.Account = accountOf(account)
	d.Consistency = d.Account.moment()
	d.Consistent = d.Consistency == manifest.OnePointInTime
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(d)
	}
	return a.printInfo(d, h, all)
}

// gatherInfo reads all that can be read; what can't is noted.
func gatherInfo(ctx context.Context, path string, f *dump.File, h *header.Header) *dumpInfo {
	c := f.Container()
	d := &dumpInfo{
		File: path, Container: string(c.Compression), FileSize: uint64(c.FileSize), Size: uint64(f.Size()), Frames: c.Frames,
	}
	for _, v := range h.Fields() {
		d.Header = append(d.Header, fieldInfo{v.Name, v.Offset, v.Value, v.Set, v.Kind})
	}
	if b := f.Bitmap(); b != nil {
		for _, v := range b.Fields() {
			d.Header = append(d.Header, fieldInfo{v.Name, h.Width.Size() + v.Offset, v.Value, v.Set, v.Kind})
		}
	}
	for i, r := range f.RAM() {
		if i == maxInfoRuns {
			d.RunsMore = len(f.RAM()) - i
			break
		}
		d.Runs = append(d.Runs, runInfo{manifest.Hex(r.Base), r.Pages})
	}
	if h.IsSet("SystemTime") && h.SystemTime != 0 {
		d.GuestClock = header.FileTime(h.SystemTime)
	}
	if h.IsSet("SystemUpTime") {
		d.GuestUptime = float64(h.SystemUpTime) / uptimeSecond
	}
	sys, err := capture.OpenDump(ctx, f)
	var note string
	if d.BugCheck, note = crashOf(h, sys); note != "" {
		d.Notes = append(d.Notes, note)
	}
	if err != nil {
		d.Notes = append(d.Notes, fmt.Sprintf("the guest in it can't be read: %v", err))
		return d
	}
	d.Notes = append(d.Notes, sys.Warnings...)
	g := capture.DescribeDump(ctx, sys)
	d.Guest = &g
	for _, p := range sys.Processors {
		d.Processors = append(d.Processors, processorOf(ctx, sys, p))
	}
	modules, err := sys.Modules(ctx)
	if err != nil {
		d.Notes = append(d.Notes, fmt.Sprintf("module list: %v", err))
	}
	for _, m := range modules {
		d.Modules = append(d.Modules, moduleInfo{m.Name, manifest.Hex(m.Base), m.Size, m.Path})
	}
	processes, err := sys.Processes(ctx)
	if err != nil {
		d.Notes = append(d.Notes, fmt.Sprintf("process list: %v", err))
	}
	for _, p := range processes {
		d.Processes = append(d.Processes, processInfo{p.Name, p.PID, manifest.Hex(p.DirectoryTableBase), manifest.Hex(p.EPROCESS)})
	}
	return d
}

func processorOf(ctx context.Context, sys *guest.System, p guest.Processor) processorInfo {
	info := processorInfo{Number: p.Number, KPRCB: manifest.Hex(p.PRCB)}
	m := header.Machine(sys.Machine.Value)
	buf := make([]byte, m.ContextSize())
	if p.ContextAt == 0 || sys.Space.ReadVirt(ctx, buf, p.ContextAt) != nil {
		return info
	}
	if c, err := header.DecodeContext(m, buf); err == nil {
		info.RIP, info.RSP, info.CS = manifest.Hex(c.Rip), manifest.Hex(c.Rsp), c.SegCs
	}
	return info
}

func (a *app) printInfo(d *dumpInfo, h *header.Header, all bool) error {
	p := table.NewPairs(a.stdout)
	p.Width = terminalWidth
	fmt.Fprintln(a.stdout, "Dump")
	p.Add("file", "%s", d.File)
	p.Add("container", "%s, %s; %s when expanded", d.Container, humanize.IBytes(d.FileSize), humanize.IBytes(d.Size))
	p.Add("type", "%v", h.DumpType)
	if d.Guest != nil {
		p.Add("guest", "%s, %s", printable(d.Guest.Windows), plural(d.Guest.CPUs, "processor"))
		if v := d.Guest.VBS; v != nil {
			p.Add("VBS", "%s", vbsLine(v))
		}
	}
	if !d.GuestClock.IsZero() {
		p.Add("guest's clock", "%s", clock(d.GuestClock))
	}
	if h.IsSet("SystemUpTime") {
		p.Add("guest was up", "%s", longTime(h.SystemUpTime/uptimeSecond))
	}
	d.BugCheck.addTo(p)
	d.Account.addTo(p)
	if err := p.Flush(); err != nil {
		return err
	}
	if err := d.Account.write(a.stdout); err != nil {
		return err
	}
	return a.printSections(d, all)
}

func (a *app) printSections(d *dumpInfo, all bool) error {
	fields := table.Table{Columns: []string{"OFFSET", "FIELD", "VALUE"}}
	for _, f := range d.Header {
		if f.Set || all {
			fields.Add(fmt.Sprintf("%04x", f.Offset), f.Name, f.shown())
		}
	}
	runs := table.Table{Columns: []string{"FIRST PAGE", "PAGES", "SIZE"}, Right: map[string]bool{"FIRST PAGE": true, "PAGES": true, "SIZE": true}}
	for i, r := range d.Runs {
		if i == maxListed && !all {
			runs.Add("…", fmt.Sprintf("%d more", len(d.Runs)-i+d.RunsMore), "")
			break
		}
		runs.Add(r.FirstPage.String(), humanize.Comma(int64(r.Pages)), humanize.IBytes(r.Pages<<phys.PageShift))
	}
	if all && d.RunsMore > 0 {
		runs.Add("…", fmt.Sprintf("%d more", d.RunsMore), "")
	}
	cpus := table.Table{Columns: []string{"CPU", "KPRCB", "RIP", "RSP", "CS"}, Right: map[string]bool{"CPU": true}}
	for _, c := range d.Processors {
		cpus.Add(strconv.Itoa(c.Number), c.KPRCB.String(), c.RIP.String(), c.RSP.String(), fmt.Sprintf("%#x", c.CS))
	}
	mods := table.Table{Columns: []string{"BASE", "SIZE", "MODULE", "FOLDER"}, Right: map[string]bool{"SIZE": true}}
	for _, m := range d.Modules {
		mods.Add(m.Base.String(), humanize.IBytes(uint64(m.Size)), printable(m.Name), printable(m.folder()))
	}
	procs := table.Table{Columns: []string{"PID", "PROCESS", "CR3", "EPROCESS"}, Right: map[string]bool{"PID": true}}
	for _, p := range d.Processes {
		procs.Add(strconv.FormatUint(p.PID, 10), printable(p.Name), p.CR3.String(), p.EPROCESS.String())
	}
	for _, s := range []struct {
		title string
		table *table.Table
	}{
		{"Header", &fields}, {"Memory", &runs}, {"Processors", &cpus}, {"Modules", &mods}, {"Processes", &procs},
	} {
		if s.table.Len() == 0 {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s\n", s.title)
		s.table.Width = terminalWidth
		if err := s.table.Write(a.stdout, "  "); err != nil {
			return err
		}
	}
	for _, n := range d.Notes {
		a.log.Warn().Msg(printable(n))
	}
	return nil
}

// folder is the module's path without its name, where it ends in that.
func (m moduleInfo) folder() string {
	if n := len(m.Path) - len(m.Name); n > 0 && strings.EqualFold(m.Path[n:], m.Name) && m.Path[n-1] == '\\' {
		return m.Path[:n]
	}
	return m.Path
}

// terminalWidth is how many cells a line of what people read may take.
const terminalWidth = 80

// uptimeSecond is a second in the units of SystemUpTime, of 100 ns.
const uptimeSecond = 10_000_000

// shown is the field's value for a person. Text in it is the file's.
func (f fieldInfo) shown() string {
	if f.kind == header.KindUpTime && f.Set {
		if d, err := time.ParseDuration(f.Value); err == nil && d >= time.Second {
			return longTime(uint64(d/time.Second)) + " (" + f.Value + ")"
		}
	}
	return printable(f.Value)
}

// printable makes text from a guest safe for a terminal: a name may hold
// escape sequences.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
