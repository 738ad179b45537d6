package qemu

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/phys"
)

// machine is what QEMU 7.2 said of a machine whose firmware had run.
type machine struct {
	mtree, ramblock string
	sizes           memorySizes
	devices         []memoryDevice
}

func readFixture(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readMachine(t testing.TB, name string) machine {
	t.Helper()
	m := machine{mtree: readFixture(t, name+".mtree"), ramblock: readFixture(t, name+".ramblock")}
	var err error
	if m.sizes, err = decodeQMP[memorySizes](readFixture(t, name+".sizes.json")); err != nil {
		t.Fatal(err)
	}
	if m.devices, err = decodeQMP[[]memoryDevice](readFixture(t, name+".devices.json")); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m machine) build() (RAMMap, error) { return buildRAMMap(m.mtree, m.ramblock, m.sizes, m.devices) }

// addrRun is the pages of [from, to).
func addrRun(from, to phys.Addr) phys.Run {
	return phys.Run{Base: from.PFN(), Pages: uint64((to - from) >> phys.PageShift)}
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

// The machines were started with the memory in their names; where RAM is split
// below 4 GiB is in pc_q35_init and pc_init1 of QEMU's hw/i386.
func TestRAMMap(t *testing.T) {
	low := ramRange{addrRun(0, 0xa0000), "pc.ram", 0}
	tests := []struct {
		name string
		want []ramRange
	}{
		{"q35-2g", []ramRange{low, {addrRun(0xc0000, 2*gib), "pc.ram", 0xc0000}}},
		{"q35-5g", []ramRange{
			low,
			{addrRun(0xc0000, 2*gib), "pc.ram", 0xc0000},
			{addrRun(4*gib, 7*gib), "pc.ram", 2 * gib},
		}},
		{"i440fx-2g", []ramRange{low, {addrRun(0xc0000, 2*gib), "pc.ram", 0xc0000}}},
		{"i440fx-5g", []ramRange{
			low,
			{addrRun(0xc0000, 3*gib), "pc.ram", 0xc0000},
			{addrRun(4*gib, 6*gib), "pc.ram", 3 * gib},
		}},
		{"q35-numa-dimm", []ramRange{
			{addrRun(0, 0xa0000), "ram-node0", 0},
			{addrRun(0xc0000, 2*gib), "ram-node0", 0xc0000},
			{addrRun(4*gib, 5*gib), "ram-node0", 2 * gib},
			{addrRun(5*gib, 7*gib), "ram-node1", 0},
			{addrRun(7*gib, 7*gib+512*mib), "memdimm0", 0},
		}},
		{"q35-virtiomem", []ramRange{low, {addrRun(0xc0000, 1*gib), "pc.ram", 0xc0000}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readMachine(t, tt.name).build()
			if err != nil {
				t.Fatalf("buildRAMMap failed: %v", err)
			}
			if diff := cmp.Diff(tt.want, got.ranges, cmp.AllowUnexported(ramRange{})); diff != "" {
				t.Errorf("ranges (-want +got):\n%s", diff)
			}
			var runs []phys.Run
			for _, r := range tt.want {
				runs = append(runs, r.run)
			}
			want, err := phys.NewRuns(runs...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.runs); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
			checkNoDevices(t, got.runs)
		})
	}
}

// checkNoDevices: none of what a read would disturb is in the map.
func checkNoDevices(t *testing.T, runs phys.Runs) {
	t.Helper()
	devices := map[string]phys.Runs{
		"VGA window":             {addrRun(0xa0000, 0xc0000)},
		"PCI hole and flash":     {addrRun(0xe0000000, 0x100000000)},
		"q35 configuration area": {addrRun(0xb0000000, 0xc0000000)},
	}
	for what, d := range devices {
		if what == "q35 configuration area" && runs.Has(phys.Addr(0xb0000000).PFN()) && runs.Has(phys.Addr(0xbffff000).PFN()) {
			continue // an i440fx machine has RAM there
		}
		if hit := runs.Intersect(d); len(hit) != 0 {
			t.Errorf("RAM map has %v of the %s", hit, what)
		}
	}
}

func TestRAMMapVirtioMem(t *testing.T) {
	m := readMachine(t, "q35-virtiomem")
	m.devices[0].Data.Size = m.devices[0].Data.MaxSize
	m.sizes.Plugged = m.devices[0].Data.MaxSize
	got, err := m.build()
	if err != nil {
		t.Fatalf("buildRAMMap with all plugged failed: %v", err)
	}
	if want := addrRun(4*gib, 5*gib); got.runs[len(got.runs)-1] != want {
		t.Errorf("last run = %v; want %v", got.runs[len(got.runs)-1], want)
	}
	m.devices[0].Data.Size /= 2
	if _, err := m.build(); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("buildRAMMap with half plugged = %v; want %v", err, hv.ErrUnsupported)
	}
}

// TestRAMMapRefuses: what doesn't add up is an error, never a guess.
func TestRAMMapRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*machine)
	}{
		{"empty view", func(m *machine) { m.mtree = "" }},
		{"no view of memory", func(m *machine) { m.mtree = strings.ReplaceAll(m.mtree, `AS "memory"`, `AS "other"`) }},
		{"unknown command", func(m *machine) { m.mtree = "unknown command: 'info mtree'\r\n" }},
		{"cut off", func(m *machine) {
			i := strings.Index(m.mtree, `AS "memory"`)
			m.mtree = m.mtree[:i+strings.Index(m.mtree[i:], "0000000100000000-")+20]
		}},
		{"no blocks", func(m *machine) { m.ramblock = "" }},
		{"block is missing", func(m *machine) { m.ramblock = strings.ReplaceAll(m.ramblock, "pc.ram", "pc.rom") }},
		{"block is smaller", func(m *machine) {
			m.ramblock = strings.Replace(m.ramblock, "0x0000000140000000 0x0000000140000000", "0x0000000130000000 0x0000000140000000", 1)
		}},
		{"machine is smaller", func(m *machine) { m.sizes.Base -= phys.PageSize * 0x200 }},
		{"machine is larger", func(m *machine) { m.sizes.Base += 2 * maxMissing }},
		{"sizes overflow", func(m *machine) { m.sizes.Plugged = ^uint64(0) }},
		{"RAM that is a device's", func(m *machine) {
			m.mtree = strings.ReplaceAll(m.mtree, "00000001bfffffff (prio 0, ram)", "00000001bfffffff (prio 0, ramd)")
		}},
		{"not whole pages", func(m *machine) {
			m.mtree = strings.ReplaceAll(m.mtree, "000000007fffffff (prio 0, ram)", "000000007ffff7ff (prio 0, ram)")
		}},
		{"beyond the address space", func(m *machine) {
			m.mtree = strings.ReplaceAll(m.mtree, "-00000001bfffffff (prio 0, ram)", "-ffffffffffffffff (prio 0, ram)")
		}},
		{"out of order", func(m *machine) {
			m.mtree = strings.ReplaceAll(m.mtree, "0000000100000000-00000001bfffffff", "0000000000000000-00000000bfffffff")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := readMachine(t, "q35-5g")
			before := m
			tt.change(&m)
			if cmp.Equal(m, before, cmp.AllowUnexported(machine{})) {
				t.Fatal("the case changes nothing")
			}
			if got, err := m.build(); err == nil {
				t.Errorf("buildRAMMap = %v; want an error", got.runs)
			}
		})
	}
}

// TestFlatLineForms has lines of other versions and accelerators
// (mtree_print_flatview in QEMU's system/memory.c).
func TestFlatLineForms(t *testing.T) {
	tests := []struct {
		line string
		want flatRange
	}{
		{
			"  0000000000100000-000000007fffffff (prio 0, ram): pc.ram @0000000000100000 KVM",
			flatRange{0x100000, 0x7fffffff, "ram", "pc.ram", 0x100000},
		},
		{
			"  0000000100000000-000000017fffffff (prio 0, ram): /objects/ram-node0 KVM",
			flatRange{4 * gib, 6*gib - 1, "ram", "/objects/ram-node0", 0},
		},
		{
			"  00000000e0000000-00000000efffffff (prio 1, ramd): 0000:01:00.0 BAR 1 mmaps[0]",
			flatRange{0xe0000000, 0xefffffff, "ramd", "0000:01:00.0 BAR 1 mmaps[0]", 0},
		},
		{
			"  00000000ffc00000-00000000ffc83fff (prio 0, romd): system.flash1",
			flatRange{0xffc00000, 0xffc83fff, "romd", "system.flash1", 0},
		},
		{
			"  00000000000a0000-00000000000affff (prio -1, nv-ram): x @0000000000000001",
			flatRange{0xa0000, 0xaffff, "nv-ram", "x", 1},
		},
	}
	for _, tt := range tests {
		got, err := parseFlatLine(tt.line)
		if err != nil || got != tt.want {
			t.Errorf("parseFlatLine(%q) = %+v, %v; want %+v", tt.line, got, err, tt.want)
		}
	}
}

func FuzzRAMMap(f *testing.F) {
	m := readMachine(f, "q35-numa-dimm")
	f.Add(m.mtree, m.ramblock, m.sizes.Base, m.sizes.Plugged)
	m = readMachine(f, "i440fx-5g")
	f.Add(m.mtree, m.ramblock, m.sizes.Base, m.sizes.Plugged)
	f.Fuzz(func(t *testing.T, mtree, ramblock string, base, plugged uint64) {
		got, err := buildRAMMap(mtree, ramblock, memorySizes{base, plugged}, m.devices)
		if err != nil {
			return
		}
		if n := got.runs.Pages() << phys.PageShift; n > base+plugged {
			t.Errorf("map has %d bytes; the machine has %d", n, base+plugged)
		}
		for i, r := range got.runs {
			if !r.Valid() || (i > 0 && got.runs[i-1].End() >= r.Base) {
				t.Errorf("run %d of %v is out of form", i, got.runs)
			}
		}
		if len(got.runs.Intersect(vgaWindow)) != 0 {
			t.Errorf("map %v has the VGA window", got.runs)
		}
	})
}

func TestParseGPA2HVA(t *testing.T) {
	const good = "Host virtual address for 0x100000 (pc.ram) is 0x7f1c2be00000\r\n"
	if got, err := parseGPA2HVA(good, 0x100000, "pc.ram"); err != nil || got != 0x7f1c2be00000 {
		t.Errorf("parseGPA2HVA(%q) = %#x, %v; want 0x7f1c2be00000", good, got, err)
	}
	for _, text := range []string{
		"",
		"No memory is mapped at address 0x100000\r\n",
		"Memory at address 0x100000 is not RAM\r\n",
		"Host virtual address for 0x101000 (pc.ram) is 0x7f1c2be00000\r\n",
		"Host virtual address for 0x100000 (vga.vram) is 0x7f1c2be00000\r\n",
		"Host virtual address for 0x100000 (pc.ram) is 0x7f1c2be00010\r\n",
		"Host virtual address for 0x100000 (pc.ram) is 0x1ffffffffffffffff\r\n",
	} {
		if got, err := parseGPA2HVA(text, 0x100000, "pc.ram"); err == nil {
			t.Errorf("parseGPA2HVA(%q) = %#x; want an error", text, got)
		}
	}
}
