package vmstate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strings"
)

// This is a writer of streams that knows nothing of the parser: numbers and
// offsets are written out as QEMU's sources have them.

func be(vs ...any) []byte {
	var b []byte
	for _, v := range vs {
		switch v := v.(type) {
		case string: // preceded by its length
			b = append(append(b, byte(len(v))), v...)
		case byte:
			b = append(b, v)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case []byte:
			b = append(b, v...)
		default:
			panic("internal error: unknown type")
		}
	}
	return b
}

// testSection is a FULL section and what the description says of it.
type testSection struct {
	name     string
	id       uint32
	instance uint32
	version  uint32
	body     []byte
	footer   []byte // instead of the right one

	described any // JSON value instead of the right one
	hidden    bool
}

func (s testSection) bytes() []byte {
	footer := s.footer
	if footer == nil {
		footer = be(byte(0x7e), s.id)
	}
	return be(byte(0x04), s.id, s.name, s.instance, s.version, s.body, footer)
}

type jsonMap = map[string]any

func (s testSection) description() any {
	if s.described != nil {
		return s.described
	}
	d := jsonMap{
		"name": s.name, "instance_id": s.instance, "vmsd_name": s.name, "version": s.version,
		"fields": []any{jsonMap{"name": "all", "type": "buffer", "size": len(s.body)}},
	}
	if s.name == "cpu" && len(s.body) >= 1817 {
		d["fields"] = cpuDescription(0)
		if rest := len(s.body) - 1817; rest > 0 {
			// A subsection "cpu/x" of one field: 1 + 1 + 5 + 4 bytes come first.
			d["subsections"] = []any{jsonMap{
				"vmsd_name": "cpu/x", "version": 1,
				"fields": []any{jsonMap{"name": "x", "type": "uint8", "size": 1, "array_len": rest - 11}},
			}}
		}
	}
	return d
}

// cpuDescription is the list of a processor's fields. Those between the ones of
// interest are merged; shift is added to the first's size.
func cpuDescription(shift int) []any {
	type f = jsonMap
	return []any{
		f{"name": "env.regs", "type": "uint64", "size": 8, "array_len": 16 + shift},
		f{"name": "env.eip", "size": 8},
		f{"name": "env.eflags", "size": 8},
		f{"name": "env.hflags", "size": 4},
		f{"name": "env.fpuc", "size": 2},
		f{"name": "env.fpus_vmstate", "size": 2},
		f{"name": "env.fptag_vmstate", "size": 2},
		f{"name": "env.fpregs_format_vmstate", "size": 2},
		f{"name": "env.fpregs", "type": "struct", "size": 10, "array_len": 8, "struct": f{"fields": []any{f{"size": 99}}}},
		f{"name": "env.segs", "type": "struct", "size": 20, "array_len": 6},
		f{"name": "env.ldt", "size": 20},
		f{"name": "env.tr", "size": 20},
		f{"name": "env.gdt", "size": 20},
		f{"name": "env.idt", "size": 20},
		f{"name": "env.sysenter", "size": 4 + 8 + 8},
		f{"name": "env.cr[0]", "size": 8},
		f{"name": "env.cr[2]", "size": 8},
		f{"name": "env.cr[3]", "size": 8},
		f{"name": "env.cr[4]", "size": 8},
		f{"name": "env.dr", "size": 8, "array_len": 8},
		f{"name": "env.a20_mask", "size": 4},
		f{"name": "env.mxcsr", "size": 4},
		f{"name": "env.xmm_regs[0]", "size": 16, "array_len": 16},
		f{"name": "env.efer", "size": 8},
		f{"name": "env.star", "size": 8},
		f{"name": "env.lstar", "size": 8},
		f{"name": "env.cstar", "size": 8},
		f{"name": "env.fmask", "size": 8},
		f{"name": "env.kernelgsbase", "size": 8},
		f{"name": "env.others", "size": 1561 - 864},
		f{"name": "env.xmm_regs[1]", "size": 16, "array_len": 16},
	}
}

// testStream is a background snapshot in pieces that a test can change.
type testStream struct {
	head      []byte   // magic and version
	config    []byte   // the whole section
	start     []byte   // type to version of the START section
	list      []byte   // MEM_SIZE record and blocks
	early     [][]byte // whole sections
	earlyDesc []any
	parts     [][]byte // bodies of PART sections, without the last record
	devices   []testSection
	eof       []byte
	text      []byte // description, instead of the right one
	pageSize  int
}

const testRAMID = 3

// newTestStream returns a snapshot without RAM blocks and pages, of two processors.
func newTestStream() *testStream {
	return &testStream{
		head:   []byte("QEVM\x00\x00\x00\x03"),
		config: be(byte(7), uint32(7), []byte("pc-test")),
		start:  be(byte(1), uint32(testRAMID), "ram", uint32(0), uint32(4)),
		devices: []testSection{
			{name: "timer", id: 0, version: 2, body: make([]byte, 24)},
			{name: "cpu_common", id: 5, version: 1, body: make([]byte, 8)},
			{name: "cpu", id: 6, version: 12, body: testCPU(0)},
			{name: "cpu", id: 7, instance: 1, version: 12, body: be(testCPU(1), byte(5), "cpu/x", uint32(1), make([]byte, 20))},
			{name: "0000:00:01.0/thing", id: 0x7e, version: 1, body: []byte("\x7e\x00\x00\x00\x7e not the footer")},
		},
		eof:      []byte{0},
		pageSize: 4096,
	}
}

// testCPU is the state of a processor that has no register of value 0.
func testCPU(n byte) []byte {
	b := make([]byte, 1817)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ n<<5 | 1
	}
	copy(b[148:], be(uint16(0x037f), 0x3800&^(uint16(n)<<12), uint16(0x80), uint16(0)))
	copy(b[552:], be(uint32(0xffffffff)))
	return b
}

// blocks sets the list of blocks.
func (s *testStream) blocks(list ...testBlock) *testStream {
	var total uint64
	var b []byte
	for _, e := range list {
		total += e.size
		b = append(b, be(e.name, e.size)...)
	}
	s.list = be(total|4, b)
	return s
}

type testBlock struct {
	name string
	size uint64
}

// zeroPage and dataPage are records; without a name they continue a block.
func zeroPage(name string, page uint64) []byte {
	if name == "" {
		return be(page<<12|0x22, byte(0))
	}
	return be(page<<12|0x02, name, byte(0))
}

func dataPage(name string, page uint64, content []byte) []byte {
	if name == "" {
		return be(page<<12|0x28, content)
	}
	return be(page<<12|0x08, name, content)
}

// content is a page that only n has.
func content(n uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n*0x9e3779b97f4a7c15+1), 512)
}

func (s *testStream) part(records ...[]byte) *testStream {
	s.parts = append(s.parts, bytes.Join(records, nil))
	return s
}

func (s *testStream) description() []byte {
	if s.text != nil {
		return s.text
	}
	devices := append([]any{}, s.earlyDesc...)
	for _, d := range s.devices {
		if !d.hidden {
			devices = append(devices, d.description())
		}
	}
	text, err := json.Marshal(jsonMap{"page_size": s.pageSize, "devices": devices, "configuration": jsonMap{"a": []any{1}}})
	if err != nil {
		panic(err)
	}
	return text
}

// bytes returns the stream.
func (s *testStream) bytes() []byte {
	end := be(uint64(0x10))
	b := be(s.head, s.config, s.start, s.list, end, byte(0x7e), uint32(testRAMID))
	for _, e := range s.early {
		b = append(b, e...)
	}
	for _, p := range s.parts {
		b = append(b, be(byte(2), uint32(testRAMID), p, end, byte(0x7e), uint32(testRAMID))...)
	}
	for _, d := range s.devices {
		b = append(b, d.bytes()...)
	}
	b = append(b, s.eof...)
	text := s.description()
	return append(b, be(byte(6), uint32(len(text)), text)...)
}

// deviceBytes returns only the devices, as xen-save-devices-state writes them.
func (s *testStream) deviceBytes() []byte {
	b := bytes.Clone(s.head)
	for _, d := range s.devices {
		b = append(b, d.bytes()...)
	}
	return append(b, s.eof...)
}

// smallStream is a stream with a bit of everything.
func smallStream() *testStream {
	s := newTestStream().
		blocks(testBlock{"pc.ram", 6 << 12}, testBlock{"rom", 1 << 12}).
		part(dataPage("pc.ram", 1, content(1)), zeroPage("", 0), zeroPage("", 4)).
		part(zeroPage("", 2), zeroPage("rom", 0), zeroPage("pc.ram", 5))
	early := testSection{name: "dev/early", id: 9, version: 1, body: []byte(strings.Repeat("early", 3))}
	s.early = [][]byte{early.bytes()}
	s.earlyDesc = []any{early.description()}
	return s
}
