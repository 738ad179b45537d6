package vmstate

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestParseErrors breaks one thing at a time in a stream that is fine otherwise.
func TestParseErrors(t *testing.T) {
	record := func(rec uint64, rest ...any) func(*testStream) {
		return func(s *testStream) { s.part(append(be(rec), be(rest...)...)) }
	}
	device := func(n int, change func(*testSection)) func(*testStream) {
		return func(s *testStream) { change(&s.devices[n]) }
	}
	capability := func(names ...string) func(*testStream) {
		return func(s *testStream) {
			s.config = be(s.config, byte(5), "configuration/capabilities", uint32(1), uint32(len(names)))
			for _, n := range names {
				s.config = be(s.config, n)
			}
		}
	}
	cpu := 2 // index of the first processor's section
	tests := []struct {
		name   string
		change func(*testStream)
		want   string
	}{
		{"magic", func(s *testStream) { s.head[0] = 'q' }, "magic number 0x7145564d"},
		{"version", func(s *testStream) { s.head[7] = 2 }, "stream version 2"},
		{"no configuration", func(s *testStream) { s.config = nil }, "want the configuration"},
		{"machine type", func(s *testStream) { s.config = be(byte(7), uint32(1<<24)) }, "machine type of 16777216 bytes"},
		{"x-ignore-shared", capability("x-ignore-shared"), "saved with x-ignore-shared, which"},
		{"mapped-ram", capability("mapped-ram", "x-ignore-shared"), "saved with mapped-ram and x-ignore-shared, which"},
		{"configuration", func(s *testStream) {
			s.config = be(s.config, byte(5), "configuration/other", uint32(1))
		}, `unknown subsection "configuration/other"`},
		{"configuration twice", func(s *testStream) {
			one := be(byte(5), "configuration/uuid", uint32(1), make([]byte, 16))
			s.config = be(s.config, one, one)
		}, `subsection "configuration/uuid" is there twice`},
		{"page bits", func(s *testStream) {
			s.config = be(s.config, byte(5), "configuration/target-page-bits", uint32(1), uint32(14))
		}, "pages of 2^14 bytes"},
		{"capabilities", func(s *testStream) {
			s.config = be(s.config, byte(5), "configuration/capabilities", uint32(1), uint32(1<<31))
		}, "2147483648 capabilities"},

		{"not RAM", func(s *testStream) {
			s.start = be(byte(1), uint32(testRAMID), "dirty-bitmap", uint32(0), uint32(1))
		}, `section "dirty-bitmap" instance 0 is saved while`},
		{"RAM version", func(s *testStream) {
			s.start = be(byte(1), uint32(testRAMID), "ram", uint32(0), uint32(3))
		}, `section "ram" has version 3`},
		{"part first", func(s *testStream) { s.start, s.list = be(byte(2), uint32(testRAMID)), nil }, "type 0x02 (PART) can't be here"},
		{"no list", func(s *testStream) { s.list = nil }, "its flags: EOS"},
		{"empty list", func(s *testStream) { s.list = be(uint64(4)) }, "no RAM"},
		{"list too short", func(s *testStream) {
			s.list = be(uint64(2<<12|4), "a", uint64(1<<12))
		}, `RAM block "" of `},
		{"list too long", func(s *testStream) {
			s.list = be(uint64(2<<12|4), "a", uint64(3<<12))
		}, `RAM block "a" of 12288 bytes; only 8192 are left`},
		{"size 0", func(s *testStream) { s.list = be(uint64(2<<12|4), "a", uint64(0)) }, `RAM block "a" of 0 bytes`},
		{"size unaligned", func(s *testStream) { s.list = be(uint64(2<<12|4), "a", uint64(4097)) }, `RAM block "a" of 4097 bytes`},
		{"block twice", func(s *testStream) {
			s.list = be(uint64(2<<12|4), "a", uint64(1<<12), "a", uint64(1<<12))
		}, `RAM block "a" is listed twice`},
		{"after the list", func(s *testStream) { s.list = append(s.list, be(uint64(0x20))...) }, "RAM record 0x20 after the list"},

		{"flag FULL", record(0x01), "flags: FULL"},
		{"flag MEM_SIZE", record(0x04), "flags: MEM_SIZE"},
		{"flag XBZRLE", record(0x60), "flags: CONTINUE, XBZRLE"},
		{"flag HOOK", record(0x80), "flags: HOOK"},
		{"flag COMPRESS", record(0x100), "flags: COMPRESS_PAGE"},
		{"flag MULTIFD", record(0x200), "flags: MULTIFD_FLUSH"},
		{"flag unknown", record(0x828), "flags: PAGE, CONTINUE, 0x800"},
		{"flags PAGE and ZERO", record(0x2a), "flags: ZERO, PAGE, CONTINUE"},
		{"EOS with address", record(0x1010), "flags: EOS"},
		{"EOS continues", record(0x30), "flags: EOS, CONTINUE"},
		{"no flags", record(0x3000, bytes.Repeat([]byte{1}, 8<<10)), "flags: none"},
		{"continues nothing", func(s *testStream) { s.parts = [][]byte{zeroPage("", 0)} }, "continues a block; none was named"},
		{"block unknown", func(s *testStream) { s.part(zeroPage("vga", 0)) }, `page of block "vga", which isn't listed`},
		{"outside", func(s *testStream) { s.part(zeroPage("pc.ram", 6)) }, `page at 0x6000 is outside of block "pc.ram" of 0x6000 bytes`},
		{"far outside", func(s *testStream) { s.part(zeroPage("pc.ram", 1<<52-1)) }, "page at 0xfffffffffffff000 is outside"},
		{"zero after data", func(s *testStream) { s.part(zeroPage("pc.ram", 1)) }, `page 0x1000 of block "pc.ram" is there twice`},
		{"zero after zero", func(s *testStream) { s.part(zeroPage("pc.ram", 0)) }, `page 0x0 of block "pc.ram" is there twice`},
		{"data after zero", func(s *testStream) { s.part(dataPage("pc.ram", 4, content(1))) }, `page 0x4000 of block "pc.ram" is there twice`},
		{"data after data", func(s *testStream) { s.part(dataPage("pc.ram", 1, content(1))) }, `page 0x1000 of block "pc.ram" is there twice`},
		{"fill", func(s *testStream) { s.part(be(uint64(3<<12|2), "pc.ram", byte(0xcc))) }, "page filled with 0xcc"},
		{"part of another", func(s *testStream) {
			s.part(be(uint64(0x10), byte(0x7e), uint32(testRAMID), byte(2), uint32(8)))
		}, "part of section 8; RAM is section 3"},
		{"part's footer", func(s *testStream) { s.part(be(uint64(0x10), byte(0x7e), uint32(8))) }, "footer of section 8; want that of section 3"},
		{"no footer", func(s *testStream) { s.part(be(uint64(0x10), byte(2), uint32(testRAMID))) }, "byte 0x02; want the footer of section 3"},
		{"END", func(s *testStream) {
			s.part(be(uint64(0x10), byte(0x7e), uint32(testRAMID), byte(3), uint32(testRAMID)))
		}, "type 0x03 (END) can't be here"},
		{"COMMAND", func(s *testStream) {
			s.part(be(uint64(0x10), byte(0x7e), uint32(testRAMID), byte(8)))
		}, "type 0x08 (COMMAND) can't be here"},
		{"START again", func(s *testStream) {
			s.part(be(uint64(0x10), byte(0x7e), uint32(testRAMID), s.start))
		}, "type 0x01 (START) can't be here"},
		{"type unknown", func(s *testStream) {
			s.part(be(uint64(0x10), byte(0x7e), uint32(testRAMID), byte(0x44)))
		}, "type 0x44 (unknown) can't be here"},
		{"no device", func(s *testStream) { s.devices, s.early, s.earlyDesc = nil, nil, nil }, "type 0x00 (EOF) can't be here"},

		{"part among devices", device(3, func(d *testSection) {
			d.footer = be(byte(0x7e), d.id, byte(2), uint32(testRAMID), uint64(0x10), byte(0x7e), uint32(testRAMID))
		}), "type 0x02 (PART) can't be here"},
		{"not described", device(1, func(d *testSection) { d.hidden = true }), `section "cpu_common" instance 0 isn't described`},
		{"section twice", func(s *testStream) { s.devices[3].hidden, s.devices[3].instance = true, 0 }, `section "cpu" instance 0 isn't described, or is there twice`},
		{"described twice", device(3, func(d *testSection) { d.instance = 0 }), `section "cpu" instance 0 is described twice`},
		{"section version", device(0, func(d *testSection) {
			d.described = jsonMap{"name": "timer", "version": 3, "fields": []any{jsonMap{"size": 24}}}
		}), `section "timer" instance 0 has version 2; 3 is described`},
		{"too short", device(0, func(d *testSection) {
			d.described = jsonMap{"name": "timer", "version": 2, "fields": []any{jsonMap{"size": 23}}}
		}), "byte 0x00; want the footer of section 0"},
		{"too long", device(4, func(d *testSection) {
			d.described = jsonMap{"name": d.name, "version": 1, "fields": []any{jsonMap{"size": 40}}}
		}), "goes past the end of sections"},
		{"overflow", device(0, func(d *testSection) {
			d.described = jsonMap{"name": "timer", "version": 2, "fields": []any{jsonMap{"size": uint64(1) << 62, "array_len": 4}}}
		}), `section "timer" instance 0: more than 1073741824 bytes`},
		{"sum overflows", device(0, func(d *testSection) {
			d.described = jsonMap{"name": "timer", "version": 2, "fields": []any{jsonMap{"size": 1 << 29}, jsonMap{"size": 1<<29 + 1}}}
		}), `section "timer" instance 0: more than 1073741824 bytes`},
		{"negative", device(0, func(d *testSection) {
			d.described = jsonMap{"name": "timer", "version": 2, "fields": []any{jsonMap{"size": -1}}}
		}), "cannot unmarshal number -1"},
		{"deep", device(0, func(d *testSection) {
			sub := jsonMap{}
			for range 20 {
				sub = jsonMap{"subsections": []any{sub}}
			}
			sub["name"] = "timer"
			d.described = sub
		}), "more than 16 levels of subsections"},
		{"page size", func(s *testStream) { s.pageSize = 16384 }, "pages of 16384 bytes"},
		{"text", func(s *testStream) { s.text = []byte("{]}") }, "description: "},
		{"two lists", func(s *testStream) { s.text = []byte(`{"devices":[],"devices":[]}`) }, "two lists of devices"},
		{"no list of devices", func(s *testStream) { s.text = []byte(`{"page_size":4096}`) }, "no list of devices"},
		{"devices", func(s *testStream) { s.text = []byte(`{"devices":{}}`) }, "want an array: another token"},
		{"fields", device(0, func(d *testSection) { d.described = jsonMap{"name": "timer", "fields": "none"} }), "want an array: another token"},
		{"after the text", func(s *testStream) { s.text = append(s.description(), '}') }, "text follows the description"},
		{"early", func(s *testStream) {
			s.earlyDesc = []any{jsonMap{"name": "dev/early", "version": 1, "fields": []any{jsonMap{"size": 16}}}}
		}, `section "dev/early" instance 0 has 15 bytes; 16 are described`},
		{"early not described", func(s *testStream) { s.earlyDesc = nil }, `section "dev/early" instance 0 isn't described`},

		{"no processor", func(s *testStream) { s.devices = s.devices[:2] }, "no section of a processor"},
		{"cpu version", device(cpu, func(d *testSection) { d.version = 13 }), "section of processor 0 has version 13; want 12"},
		{"cpu short", device(cpu, func(d *testSection) {
			d.body = d.body[:1816]
			d.described = jsonMap{"name": "cpu", "version": 12, "fields": cpuDescription(0)}
		}), "want the footer of section 6"},
		{"cpu layout", device(cpu, func(d *testSection) {
			d.body = be(make([]byte, 8), d.body)
			d.described = jsonMap{"name": "cpu", "version": 12, "fields": cpuDescription(1)}
		}), "field env.regs has 136 bytes at 0; want 128 at 0"},
		{"cpu field", device(cpu, func(d *testSection) {
			d.described = jsonMap{"name": "cpu", "version": 12, "fields": cpuDescription(0)[:30]}
		}), "field env.xmm_regs[1] is missing"},
		{"x87 format", device(cpu, func(d *testSection) { d.body[155] = 1 }), "x87 registers are in format 1"},
		{"tag word", device(cpu, func(d *testSection) { d.body[152] = 1 }), "tag word is 0x180"},
		{"A20", device(cpu, func(d *testSection) { d.body[552] = 0 }), "mask of address line 20 is 0xffffff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := smallStream()
			tt.change(s)
			got, err := Parse(s.bytes(), Options{})
			if got != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Parse() = %v, %v; want an error with %q", got, err, tt.want)
			}
			if errors.Is(err, ErrTruncated) || errors.Is(err, ErrLimit) {
				t.Errorf("Parse() = %v, which is of the wrong class", err)
			}
			if !strings.Contains(err.Error(), "offset 0x") {
				t.Errorf("Parse() = %v, which has no offset", err)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	b := smallStream().bytes()
	for _, o := range []Options{{}, {MaxRAM: 7 << 12, MaxCPUs: 2}} {
		if _, err := Parse(b, o); err != nil {
			t.Errorf("Parse(%+v) = %v; want none", o, err)
		}
	}
	for _, o := range []Options{{MaxRAM: 7<<12 - 1}, {MaxCPUs: 1}} {
		if _, err := Parse(b, o); !errors.Is(err, ErrLimit) || !errors.Is(err, ErrFormat) {
			t.Errorf("Parse(%+v) = %v; want ErrLimit", o, err)
		}
	}
	huge := newTestStream().blocks(testBlock{"a", 1 << 62}).bytes()
	if _, err := Parse(huge, Options{}); !errors.Is(err, ErrLimit) {
		t.Errorf("Parse() = %v with 4 EiB of RAM; want ErrLimit", err)
	}
	many := newTestStream()
	many.list = be(uint64(5000<<12 | 4))
	for i := range 5000 {
		many.list = be(many.list, string([]byte{byte(i), byte(i >> 8)}), uint64(1<<12))
	}
	if _, err := Parse(many.bytes(), Options{}); !errors.Is(err, ErrLimit) {
		t.Errorf("Parse() = %v with 5000 blocks; want ErrLimit", err)
	}
}

// TestTruncated cuts a stream at every byte, with nothing behind it and with the
// zeros of a sink that was made larger beforehand.
func TestTruncated(t *testing.T) {
	b := smallStream().bytes()
	sink := make([]byte, len(b)+16<<10)
	for n := range b {
		if s, err := Parse(b[:n:n], Options{}); s != nil || !errors.Is(err, ErrTruncated) {
			t.Fatalf("Parse(first %d of %d bytes) = %v, %v; want ErrTruncated", n, len(b), s, err)
		}
		if s, err := Parse(sink, Options{}); s != nil || !errors.Is(err, ErrTruncated) {
			t.Fatalf("Parse(first %d of %d bytes, then zeros) = %v, %v; want ErrTruncated", n, len(b), s, err)
		}
		sink[n] = b[n]
	}
	if s, err := Parse(sink, Options{}); err != nil || s.Size != int64(len(b)) {
		t.Errorf("Parse(stream, then zeros) = %v, %v; want %d bytes", s, err, len(b))
	}
}

// TestTruncatedRecording cuts a real one at every 487th byte.
func TestTruncatedRecording(t *testing.T) {
	b := recording(t, "qemu-10.0-virtio-mem.stream")
	for n := 0; n < len(b); n += 487 {
		if s, err := Parse(b[:n:n], Options{}); s != nil || !errors.Is(err, ErrTruncated) {
			t.Fatalf("Parse(first %d of %d bytes) = %v, %v; want ErrTruncated", n, len(b), s, err)
		}
	}
}

func TestParseDevicesErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testStream)
		want   string
	}{
		{"magic", func(s *testStream) { s.head[0] = 'q' }, "magic number"},
		{"version", func(s *testStream) { s.head[7] = 4 }, "stream version 4"},
		{"configuration", func(s *testStream) { s.head = be(s.head, s.config) }, "type 0x07 (CONFIGURATION) can't be here"},
		{"nameless", func(s *testStream) { s.devices[0].name = "" }, "section without a name"},
		{"no processor", func(s *testStream) { s.devices = s.devices[:2] }, "no section of a processor"},
		{"twice", func(s *testStream) { s.devices[3].instance = 0 }, "processor 0 is there twice"},
		{"cpu version", func(s *testStream) { s.devices[2].version = 11 }, "processor 0 has version 11"},
		{"x87 format", func(s *testStream) { s.devices[2].body[155] = 1 }, "x87 registers are in format 1"},
		{"data behind", func(s *testStream) { s.eof = []byte{0, 1} }, "goes past the end"},
		{"only data", func(s *testStream) { s.devices, s.eof = nil, []byte{0, 1} }, "data after the end of sections"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestStream()
			tt.change(s)
			got, err := ParseDevices(s.deviceBytes(), Options{})
			if got != nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseDevices() = %v, %v; want an error with %q", got, err, tt.want)
			}
		})
	}
	b := newTestStream().deviceBytes()
	for n := range b {
		// The last byte is the end of sections: without it no footer counts.
		if got, err := ParseDevices(b[:n], Options{}); got != nil || !errors.Is(err, ErrTruncated) {
			t.Fatalf("ParseDevices(first %d of %d bytes) = %v, %v; want ErrTruncated", n, len(b), got, err)
		}
	}
	if _, err := ParseDevices(b, Options{MaxCPUs: 1}); !errors.Is(err, ErrLimit) {
		t.Errorf("ParseDevices(MaxCPUs: 1) = %v; want ErrLimit", err)
	}
}
