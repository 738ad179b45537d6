package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var le = binary.LittleEndian

// placed is a file of n bytes with texts at offsets.
func placed(n int, parts map[int]string) []byte {
	b := bytes.Repeat([]byte{0xa5}, n)
	for off, s := range parts {
		copy(b[off:], s)
	}
	return b
}

// elfCoreWith is a 64-bit ELF core with one note segment (System V ABI).
func elfCoreWith(notes []byte) []byte {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 4)
	le.PutUint64(b[64+8:], uint64(len(b)))
	le.PutUint64(b[64+32:], uint64(len(notes)))
	return append(b, notes...)
}

func noteOf(name string, kind uint32, desc []byte) []byte {
	b := le.AppendUint32(nil, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = append(append(b, name...), make([]byte, 4-len(name)%4)...)
	return append(append(b, desc...), make([]byte, -len(desc)&3)...)
}

// processInfo is an elf_prpsinfo of Linux: the name at 40, the arguments at 56.
func processInfo(name, args string) []byte {
	b := make([]byte, 136)
	copy(b[40:56], name)
	copy(b[56:], args)
	return noteOf("CORE", 3, b)
}

// xenSections is an ELF core without program headers, and a section of Xen's.
func xenSections() []byte {
	names := "\x00.shstrtab\x00.note.Xen\x00.xen_prstatus\x00.xen_pages\x00"
	b := make([]byte, 64+2*64)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[40:], 64)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 2)
	le.PutUint16(b[62:], 1)
	le.PutUint64(b[128+24:], uint64(len(b)))
	le.PutUint64(b[128+32:], uint64(len(names)))
	return append(b, names...)
}

func elfOfType(kind uint16) []byte {
	b := elfCoreWith(nil)
	le.PutUint16(b[16:], kind)
	return b
}

func mbr() []byte {
	b := make([]byte, 4096)
	b[0] = 0xeb
	copy(b[510:], "\x55\xaa")
	e := b[446:]
	e[0], e[4] = 0x80, 0x07
	le.PutUint32(e[8:], 2048)
	le.PutUint32(e[12:], 204800)
	return b
}

// samples are files of each kind, smallest, made from what is published of it.
func samples() map[string][][]byte {
	pe := placed(512, map[int]string{0: "MZ", 0x3c: "\x80\x00\x00\x00", 0x80: "PE\x00\x00"})
	word := func(v uint32) []byte { return append(le.AppendUint32(nil, v), make([]byte, 60)...) }
	text := func(s string) []byte { return placed(4096, map[int]string{0: s}) }
	return map[string][][]byte{
		"a domain that virsh save wrote":                                         {text("LibvirtQemudSave\x02\x00\x00\x00")},
		"a domain that virsh save began to write":                                {text("LibvirtQemudPart\x02\x00\x00\x00")},
		"a QEMU migration stream, as virsh dump without --memory-only writes it": {text("QEVM\x00\x00\x00\x03")},
		"a core of the QEMU process": {
			elfCoreWith(append(noteOf("CORE", 1, make([]byte, 336)), processInfo("qemu-system-x86", "/usr/bin/qemu-system-x86_64 -name guest=web01")...)),
			elfCoreWith(append(noteOf("CORE", 1, make([]byte, 336)), processInfo("CPU 0/KVM", "/usr/libexec/qemu-kvm -name guest=web01")...)),
		},
		"a core of a process": {
			elfCoreWith(append(noteOf("CORE", 1, make([]byte, 336)), processInfo("bash", "bash")...)),
			elfCoreWith(append(noteOf("CORE", 1, make([]byte, 336)), noteOf("CORE", 0x46494c45, make([]byte, 16))...)),
		},
		"a Xen core":                                         {xenSections()},
		"a domain that Xen saved":                            {text("LibxlFmt"), text("Xen saved domain, xl format\n"), text("libvirt-xml\n \x00 \r"), text("\xff\xff\xff\xff\xff\xff\xff\xffXENF")},
		"a VMware state (.vmss or .vmsn)":                    {word(0xbed2bed0), word(0xbed2bed2), word(0xbed3bed3), word(0xbad1bad1)},
		"a Hyper-V saved state (.vmrs or .vsv)":              {word(0x01282014), placed(8192, map[int]string{0x1000: "\x14\x20\x28\x01"})},
		"a VirtualBox saved state (.sav)":                    {text("\x7fVirtualBox SavedState V2.0\n")},
		"a Windows hibernation file":                         {text("hibr"), text("HIBR"), text("wake"), text("WAKE"), text("RSTR")},
		"a minidump of a program":                            {text("MDMP\x93\xa7")},
		"a compressed dump of DumpIt's (.zdmp)":              {text("ZDMP\x00\x01\x00\x00")},
		"an offline crash dump of the firmware's (Raw_Dmp!)": {text("Raw_Dmp!")},
		"an event log":                                       {text("ElfFile\x00")},
		"a registry hive":                                    {text("regf\x01\x00\x00\x00")},
		"a qcow2 disk image":                                 {text("QFI\xfb\x00\x00\x00\x03")},
		"a VHDX disk image":                                  {text("vhdxfile")},
		"a VHD disk image":                                   {text("conectix\x00\x00\x00\x02"), placed(8192+512, map[int]string{8192: "conectix"})},
		"a VMDK disk image":                                  {text("KDMV\x01\x00\x00\x00"), text("# Disk DescriptorFile\nversion=1\n")},
		"a VDI disk image":                                   {placed(4096, map[int]string{0: "<<< Oracle VM VirtualBox Disk Image >>>\n", 0x40: "\x7f\x10\xda\xbe"})},
		"a QED disk image":                                   {text("QED\x00")},
		"a LUKS volume":                                      {text("LUKS\xba\xbe\x00\x02")},
		"an EWF image (E01)":                                 {text("EVF\x09\x0d\x0a\xff\x00\x01"), text("EVF2\x0d\x0a\x81\x00")},
		"an AFF4 volume":                                     {placed(4096, map[int]string{0: "PK\x03\x04", 30: "container.description", 60: "aff4://685e15cc"})},
		"a disk with partitions":                             {mbr(), placed(4096, map[int]string{512: "EFI PART"})},
		"a CD image":                                         {placed(0x9000, map[int]string{0x8001: "CD001"})},
		"a file encrypted with age":                          {text("age-encryption.org/v1\n-> X25519")},
		"a file encrypted with age, as text":                 {[]byte("-----BEGIN AGE ENCRYPTED FILE-----\nYWdl")},
		"a file encrypted with PGP":                          {[]byte("-----BEGIN PGP MESSAGE-----\n")},
		"a zip archive that is cut short":                    {text("PK\x03\x04\x14\x00")},
		"a zip archive":                                      {append([]byte("PK\x03\x04\x14\x00"), "PK\x05\x06\x00\x00\x00\x00\x02\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...), text("PK\x07\x08PK\x03\x04")},
		"a 7-Zip archive":                                    {text("7z\xbc\xaf\x27\x1c\x00\x04")},
		"a RAR archive":                                      {text("Rar!\x1a\x07\x01\x00")},
		"a tar archive":                                      {placed(1024, map[int]string{257: "ustar\x0000"})},
		"a cabinet":                                          {text("MSCF\x00\x00\x00\x00")},
		"a cpio archive":                                     {text("07070100000001")},
		"compressed with bzip2":                              {text("BZh91AY&SY"), []byte("BZh9\x17rE8P\x90\x00\x00\x00\x00")},
		"compressed with lz4":                                {text("\x04\x22\x4d\x18\x64"), text("\x02\x21\x4c\x18")},
		"compressed with lzip":                               {text("LZIP\x01")},
		"compressed with lzop":                               {text("\x89LZO\x00\x0d\x0a\x1a\x0a")},
		"compressed with lzma":                               {text("\x5d\x00\x00\x80\x00\xff\xff")},
		"compressed with compress (.Z)":                      {text("\x1f\x9d\x90")},
		"a program for Windows":                              {pe},
		"an ELF program or library":                          {elfOfType(2), elfOfType(3)},
		"the manifest of a dump":                             {[]byte("{\n  \"snap\": \"0.1.0\",\n  \"domain\": \"web01\"\n}\n")},
		"a domain's XML":                                     {[]byte("<domain type='kvm'>\n"), []byte("<?xml version='1.0'?>\n")},
		"a text":                                             {[]byte("This is no dump.\n"), []byte(strings.Repeat("naïve · ", 2000))},
		"a file that begins with zeros":                      {make([]byte, 100), make([]byte, 2<<20)},

		"a triage dump (a small memory dump, or kernel minidump)":    {dump64(4, 0x8664), dump64(4, 0xaa64), dump32(4)},
		"a kernel dump as Windows before 8 wrote it (type 2)":        {dump64(2, 0x8664), dump32(2)},
		"a crash dump's header without memory (type 3)":              {dump64(3, 0x8664), dump32(3)},
		"a dump that a debugger wrote by .dump /k, /ka or /f (RDMP)": {dump64(8, 0x8664), dump64(9, 0x8664), dump64(10, 0xaa64)},
		"a crash dump of a Windows on another processor than x86 and x86-64": {
			dump64(1, 0xaa64), dump64(5, 0xaa64), dump64(1, 0x200), dump64(1, 0x14c), armnt(),
		},
	}
}

// dump64 and dump32 are headers of crash dumps, with what tells them apart (the public
// dump header definitions).
func dump64(kind, machine uint32) []byte {
	b := placed(0x3000, map[int]string{0: "PAGEDU64", 0x2000: "at 0x2000"})
	le.PutUint32(b[0x30:], machine)
	le.PutUint32(b[0xf98:], kind)
	return b
}

func dump32(kind uint32) []byte {
	b := placed(0x2000, map[int]string{0: "PAGEDUMP"})
	le.PutUint32(b[0x20:], 0x14c)
	le.PutUint32(b[0xf88:], kind)
	return b
}

// armnt is the header of a crash dump of a Windows on 32-bit ARM.
func armnt() []byte {
	b := dump32(1)
	le.PutUint32(b[0x20:], 0x1c4)
	return b
}

// TestForeignDump: dumps of which others can be made are left alone, of the others it
// is said which are of a guest that isn't understood, and a dump that can be opened is
// told by its header and by nothing in its memory.
func TestForeignDump(t *testing.T) {
	for _, b := range [][]byte{
		dump64(1, 0x8664), dump64(5, 0x8664), dump64(6, 0x8664), dump32(1), dump32(5), []byte("PAGEDU64\x00"), []byte("PAGEDU6\x00"), placed(4096, nil),
		append(dump64(1, 0x8664), placed(0x8000, map[int]string{0x5001: "CD001", 0x7e00: "conectix"})...),
	} {
		r, size := memoryOf(b)
		got, err := ForeignDump(r, size, "f")
		if got == nil && err == nil {
			got, err = Foreign(r, size, "f")
		}
		if got != nil || err != nil {
			t.Errorf("%q… = %v, %v; want none", b[:7], got, err)
		}
	}
	for _, tt := range []struct {
		file  []byte
		other bool
	}{
		{armnt(), true}, {dump64(1, 0xaa64), true}, {dump64(4, 0xaa64), false}, {dump32(4), false}, {dump64(8, 0x8664), false},
	} {
		r, size := memoryOf(tt.file)
		if got, err := ForeignDump(r, size, "f"); err != nil || got == nil || got.OtherGuest != tt.other {
			t.Errorf("ForeignDump = %+v, %v; want OtherGuest %t", got, err, tt.other)
		}
	}
}

// TestForeignUnfinished: a file of snap's own is told by its name, and only if it isn't
// what others write.
func TestForeignUnfinished(t *testing.T) {
	const name = "/var/dumps/web01.dmp.zst.partial-ABCDEFGHJ2"
	for _, tt := range []struct {
		name string
		file []byte
		want bool
	}{
		{name, placed(4096, map[int]string{0: "\x28\xb5\x2f\xfd"}), true},
		{name, placed(4096, map[int]string{0: "PAGEDU64"}), true},
		{name, make([]byte, 4096), true},
		{name, elfCoreWith(noteOf("QEMU", 0, make([]byte, 0x1b8))), false},
		{name, placed(4096, map[int]string{0: "KDUMP   "}), false},
		{name + ".old", placed(4096, map[int]string{0: "\x28\xb5\x2f\xfd"}), false},
		{"/var/dumps/web01.dmp.zst", placed(4096, map[int]string{0: "\x28\xb5\x2f\xfd"}), false},
	} {
		r, size := memoryOf(tt.file)
		got, err := Foreign(r, size, tt.name)
		if err != nil || (got != nil) != tt.want {
			t.Errorf("Foreign(%q…, %s) = %v, %v; want a refusal: %t", tt.file[:8], tt.name, got, err, tt.want)
		}
	}
}

// TestForeignGuestContent: what stands in a guest's memory doesn't make its file that
// of another tool.
func TestForeignGuestContent(t *testing.T) {
	for _, magic := range []string{"\x7fELF\x02\x01\x01", "KDUMP   ", "makedumpfile\x00", "EMiL\x01\x00\x00\x00", "AVML\x02\x00\x00\x00", "PAGEDU64", "PAGEDUMP"} {
		for off, content := range map[int]string{
			0x8001: "CD001", 0x1000: "\x14\x20\x28\x01", 512: "EFI PART", 257: "ustar", 0x40: "\x7f\x10\xda\xbe",
			0x9000 - 512: "conectix", 446: string(mbr()[446:512]),
		} {
			r, size := memoryOf(placed(0x9000, map[int]string{0: magic, off: content}))
			if got, err := Foreign(r, size, "f"); got != nil || err != nil {
				t.Errorf("%q at %#x of a file that begins with %q = %v, %v; want none", content, off, magic, got, err)
			}
		}
	}
}

// TestForeign: every kind has samples, is told by them, and has a next step.
func TestForeign(t *testing.T) {
	all := samples()
	for _, k := range slices.Concat(kinds(), dumpKinds(), otherGuests()) {
		if k.next == "" || k.why == "" {
			t.Errorf("%s has no reason or no next step", k.what)
		}
		if len(all[k.what]) == 0 && k.what != "a VMware memory image (.vmem)" && k.what != "a file that snap began and didn't finish" {
			t.Errorf("%s has no sample", k.what)
		}
		for i, b := range all[k.what] {
			r, size := memoryOf(b)
			got, err := Foreign(r, size, "f")
			if got == nil && err == nil {
				got, err = ForeignDump(r, size, "f")
			}
			if err != nil || got == nil || got.What != k.what {
				t.Errorf("sample %d of %s = %v, %v", i, k.what, got, err)
			}
		}
	}
}

// TestNotForeign: what snap reads, and what it can't know, is left alone.
func TestNotForeign(t *testing.T) {
	guestCore := elfCoreWith(append(noteOf("CORE", 1, make([]byte, 336)), noteOf("QEMU", 0, make([]byte, 0x1b8))...))
	for name, b := range map[string][]byte{
		"core of a guest":      guestCore,
		"VirtualBox core":      elfCoreWith(noteOf("VBCORE", 0xb00, make([]byte, 24))),
		"dump":                 placed(8192, map[int]string{0: "PAGEDU64"}),
		"32-bit dump":          placed(8192, map[int]string{0: "PAGEDUMP"}),
		"kdump":                placed(4096, map[int]string{0: "KDUMP   \x06"}),
		"flattened kdump":      placed(4096, map[int]string{0: "makedumpfile\x00\x00\x00\x00"}),
		"LiME":                 placed(4096, map[int]string{0: "EMiL\x01\x00\x00\x00"}),
		"AVML":                 placed(4096, map[int]string{0: "AVML\x02\x00\x00\x00"}),
		"gzip":                 placed(4096, map[int]string{0: "\x1f\x8b\x08"}),
		"memory":               placed(1<<20, nil),
		"a boot sector's mark": placed(4096, map[int]string{510: "\x55\xaa"}),
		"nothing":              nil,
		"a byte":               {0xff},
	} {
		r, size := memoryOf(b)
		if got, err := Foreign(r, size, name); got != nil || err != nil {
			t.Errorf("%s = %v, %v; want none", name, got, err)
		}
	}
}

// TestForeignVMem: raw memory of VMware's is told by the state beside it alone.
func TestForeignVMem(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web01.vmem")
	memory := placed(1<<20, nil)
	r, size := memoryOf(memory)
	if got, err := Foreign(r, size, path); got != nil || err != nil {
		t.Errorf("a .vmem alone = %v, %v; want none", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "web01.vmss"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Foreign(r, size, path); err != nil || got == nil || !strings.Contains(got.Next, "--raw") {
		t.Errorf("a .vmem beside its state = %v, %v; want --raw as the next step", got, err)
	}
}

// TestForeignReal: what the tools themselves write.
func TestForeignReal(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		want    string
		command []string
	}{
		{"a qcow2 disk image", []string{"qemu-img", "create", "-q", "-f", "qcow2", "f", "1M"}},
		{"a VHDX disk image", []string{"qemu-img", "create", "-q", "-f", "vhdx", "f", "1M"}},
		{"a VHD disk image", []string{"qemu-img", "create", "-q", "-f", "vpc", "f", "1M"}},
		{"a VHD disk image", []string{"qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=fixed", "f", "1M"}},
		{"a VMDK disk image", []string{"qemu-img", "create", "-q", "-f", "vmdk", "f", "1M"}},
		{"a VDI disk image", []string{"qemu-img", "create", "-q", "-f", "vdi", "f", "1M"}},
		{"a QED disk image", []string{"qemu-img", "create", "-q", "-f", "qed", "f", "1M"}},
		{"a tar archive", []string{"tar", "-cf", "f", "/etc/passwd"}},
		{"compressed with bzip2", []string{"sh", "-c", "bzip2 -c /etc/passwd > f"}},
		{"a text", []string{"cp", "/etc/passwd", "f"}},
		{"an ELF program or library", []string{"cp", "/bin/sh", "f"}},
	} {
		cmd := exec.Command(tt.command[0], tt.command[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", tt.command, err, out)
			continue
		}
		f, err := Open(filepath.Join(dir, "f"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Foreign(f, f.Size(), f.Name())
		if err := errors.Join(err, f.Close()); err != nil || got == nil || got.What != tt.want {
			t.Errorf("%v = %v, %v; want %s", tt.command, got, err, tt.want)
		}
	}
}

// FuzzForeign: no bytes make it panic or take long, and the answer is complete.
func FuzzForeign(f *testing.F) {
	for _, all := range samples() {
		for _, b := range all {
			f.Add(b[:min(len(b), 8192)])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, size := memoryOf(b)
		got, err := Foreign(r, size, "f")
		if got == nil && err == nil {
			got, err = ForeignDump(r, size, "f")
		}
		if err != nil || got != nil && (got.What == "" || got.Why == "" || got.Next == "") {
			t.Errorf("Foreign = %+v, %v", got, err)
		}
	})
}
