package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"snap/internal/agefile"
)

// kind is one kind of file that other tools write and snap can't use. A new one is
// a line in kinds.
type kind struct {
	what string // with its article
	is   func(p *probe) bool
	why  string
	next string // see Refusal.Next
}

// Why a file can't be used, where it is the same for many.
const (
	noMemory   = "it holds no memory of a guest"
	notRead    = "it holds memory of a guest in a form that snap doesn't read"
	whole      = "snap takes one file, and not what is packed"
	compressed = "snap doesn't read this compression"
)

// What to do, where it is the same for many.
const (
	memoryOnly = "take it again by the guest's name: snap dump DOMAIN, or virsh dump --memory-only DOMAIN OUT and snap convert OUT"
	disk       = "a disk holds no memory: dump the running guest with snap dump DOMAIN; a crash dump inside of the disk is at C:\\Windows\\MEMORY.DMP: guestfish or virt-copy-out get it"
	toRaw      = "have the tool that it belongs to write raw memory or a crash dump of it, and give that to snap convert (--raw for raw memory)"
	unpack     = "unpack it first, and give the file that was in it"
	proprietor = "open it with the tool that it belongs to"
)

// kinds returns all kinds. The first that a file is decides, so what is inside of
// another format stands before that.
func kinds() []kind {
	return []kind{
		// Of snap itself.
		{"a file that snap began and didn't finish", unfinished, "the dump that was written to it is still going on, or was killed", "if a snap runs that writes to it, wait for that; if not, run snap recover, which resumes a guest that was left paused and removes the file, and take the dump again: snap dump DOMAIN"},

		// Of libvirt and QEMU.
		{"a domain that virsh save wrote", starts("LibvirtQemudSave"), notRead, "start the guest from it, paused, and dump that: virsh restore --paused FILE, then snap dump DOMAIN"},
		{"a domain that virsh save began to write", starts("LibvirtQemudPart"), "the save didn't end: it is not whole", memoryOnly},
		{"a QEMU migration stream, as virsh dump without --memory-only writes it", starts("QEVM"), notRead, memoryOnly},
		{"a core of the QEMU process", processCore("qemu"), "its addresses are those of a process on the host, not of the guest", memoryOnly},
		{"a core of a process", processCore(""), noMemory, "dump the guest itself: snap dump DOMAIN"},

		// Of other hypervisors.
		{"a Xen core", xenCore, notRead, toRaw},
		{"a domain that Xen saved", oneOf(starts("LibxlFmt"), starts("Xen saved domain"), starts("libvirt-xml\n"), starts("\xff\xff\xff\xff\xff\xff\xff\xffXENF"), starts("\xff\xff\xff\xff\xff\xff\xff\xffFNEX")), notRead, toRaw},
		{"a VMware state (.vmss or .vmsn)", oneOf(word(0xbed2bed0), word(0xbed2bed1), word(0xbed2bed2), word(0xbed3bed3), word(0xbad1bad1)), notRead, "give the memory image beside it, the file of the same name that ends in .vmem: snap convert --raw NAME.vmem -o OUT; if there is none, VMware's vmss2core makes a crash dump of it: vmss2core -W FILE"},
		{"a VMware memory image (.vmem)", vmem, "nothing in it says that it is memory", "say that it is: snap convert --raw FILE -o OUT"},
		{"a Hyper-V saved state (.vmrs or .vsv)", oneOf(word(0x01282014), at(0x1000, "\x14\x20\x28\x01")), notRead, "have a crash dump made of it by a debugger with Microsoft's VmSavedStateDumpProvider, or dump the guest by NMI (Debug-VM -InjectNonMaskableInterrupt)"},
		{"a VirtualBox saved state (.sav)", starts("\x7fVirtualBox SavedState"), notRead, "start the guest from it and take its core: VBoxManage debugvm NAME dumpvmcore --filename OUT, then snap convert OUT"},

		// Of Windows.
		{"a Windows hibernation file", oneOf(starts("hibr"), starts("HIBR"), starts("wake"), starts("WAKE"), starts("RSTR"), starts("rstr")), notRead, "have it expanded to raw memory (Volatility's windows.hibernation.Dump), and then snap convert --raw OUT"},
		{"a minidump of a program", starts("MDMP"), noMemory, "open it in WinDbg as it is; dump the guest with snap dump DOMAIN"},
		{"a compressed dump of DumpIt's (.zdmp)", starts("ZDMP"), compressed, "expand it first with Z2Dmp, and give the dump that it makes"},
		{"an offline crash dump of the firmware's (Raw_Dmp!)", starts("Raw_Dmp!"), notRead, proprietor},
		{"an event log", starts("ElfFile\x00"), noMemory, proprietor},
		{"a registry hive", starts("regf"), noMemory, proprietor},

		// Disks.
		{"a qcow2 disk image", starts("QFI\xfb"), noMemory, disk + "; an internal snapshot with its memory: virsh snapshot-revert --paused, then snap dump DOMAIN"},
		{"a VHDX disk image", starts("vhdxfile"), noMemory, disk},
		{"a VHD disk image", oneOf(starts("conectix"), ends(512, "conectix")), noMemory, disk},
		{"a VMDK disk image", oneOf(starts("KDMV"), starts("COWD"), starts("# Disk DescriptorFile")), noMemory, disk},
		{"a VDI disk image", at(0x40, "\x7f\x10\xda\xbe"), noMemory, disk},
		{"a QED disk image", starts("QED\x00"), noMemory, disk},
		{"a LUKS volume", starts("LUKS\xba\xbe"), "it is encrypted", "open it first: cryptsetup open FILE NAME"},
		{"an EWF image (E01)", oneOf(starts("EVF\x09\x0d\x0a\xff\x00"), starts("EVF2\x0d\x0a\x81\x00"), starts("LVF\x09\x0d\x0a\xff\x00")), whole, "unpack it to raw first: ewfexport -f raw FILE; if that is memory: snap convert --raw OUT; if it is a disk, it holds none"},
		{"an AFF4 volume", aff4, whole, "have its memory stream unpacked to a raw or ELF file first (aff4imager --export, WinPmem), and give that"},
		{"a disk with partitions", oneOf(at(512, "EFI PART"), partitions), noMemory, disk},
		{"a CD image", at(0x8001, "CD001"), noMemory, disk},

		// Encrypted.
		{"a file encrypted with age", starts(agefile.Magic), "snap has no key to it", "decrypt it first: age -d -i KEYFILE -o OUT FILE"},
		{"a file encrypted with age, as text", starts("-----BEGIN AGE ENCRYPTED FILE-----"), "snap reads a file at any offset, and this can only be read from its start", "make it what age writes without -a, which stays encrypted: sed /^-----/d FILE | base64 -d >OUT"},
		{"a file encrypted with PGP", starts("-----BEGIN PGP MESSAGE-----"), "snap has no key to it", "decrypt it first: gpg -o OUT -d FILE"},

		// Archives and compressions.
		{"a zip archive that is cut short", zipCut, "what is in it is listed at its end, which is missing", "copy the file again, or see why whatever wrote it didn't end"},
		{"a zip archive", oneOf(starts("PK\x03\x04"), starts("PK\x05\x06"), starts("PK\x07\x08")), whole, unpack + ": unzip FILE"},
		{"a 7-Zip archive", starts("7z\xbc\xaf\x27\x1c"), whole, unpack + ": 7z x FILE"},
		{"a RAR archive", starts("Rar!\x1a\x07"), whole, unpack + ": unrar x FILE"},
		{"a tar archive", at(257, "ustar"), whole, unpack + ": tar -xf FILE"},
		{"a cabinet", starts("MSCF"), whole, unpack + ": cabextract FILE"},
		{"a cpio archive", oneOf(starts("070701"), starts("070702"), starts("070707")), whole, unpack + ": cpio -id < FILE"},
		{"compressed with bzip2", bzip2, compressed, "expand it first: bunzip2 -k FILE"},
		{"compressed with lz4", oneOf(starts("\x04\x22\x4d\x18"), starts("\x02\x21\x4c\x18")), compressed, "expand it first: lz4 -d FILE OUT"},
		{"compressed with lzip", starts("LZIP"), compressed, "expand it first: lzip -dk FILE"},
		{"compressed with lzop", starts("\x89LZO\x00\x0d\x0a\x1a\x0a"), compressed, "expand it first: lzop -d FILE"},
		{"compressed with lzma", starts("\x5d\x00\x00\x80\x00"), compressed, "expand it first: unlzma -k FILE"},
		{"compressed with compress (.Z)", starts("\x1f\x9d"), compressed, "expand it first: uncompress -k FILE"},

		// Nothing of the sort.
		{"a program for Windows", windowsProgram, noMemory, "name the dump, core or image of a guest's memory"},
		{"an ELF program or library", elfProgram, noMemory, "name the dump, core or image of a guest's memory"},
		{"the manifest of a dump", manifestOf, "it is the account of the dump and not the dump", "name the dump itself, the file of the same name without .json"},
		{"a domain's XML", oneOf(starts("<domain"), starts("<?xml")), noMemory, "name the domain: snap dump DOMAIN"},
		{"a text", text, noMemory, "name the dump, core or image of a guest's memory"},
		{"a file that begins with zeros", zeros, "nothing in it says what it is", "if it is raw memory, say so: snap convert --raw FILE -o OUT; if not, see why whatever should have written it didn't"},
	}
}

// headSize is how many bytes at the start of a file are looked at.
const headSize = 4096

// probe is a file of which it is asked what it is. It trusts nothing in it.
type probe struct {
	head []byte
	r    io.ReaderAt
	size int64
	name string
}

func newProbe(r io.ReaderAt, size int64, name string) (*probe, error) {
	p := &probe{head: make([]byte, min(headSize, max(size, 0))), r: r, size: size, name: name}
	n, err := r.ReadAt(p.head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	p.head = p.head[:n]
	return p, nil
}

// Foreign says what a file is that another tool made and that snap can't use, by
// its bytes; name, which may be empty, is what messages call it. It returns nil
// for all others, and an error if the file can't be read.
func Foreign(r io.ReaderAt, size int64, name string) (*Refusal, error) {
	return foreign(r, size, name, kinds())
}

func foreign(r io.ReaderAt, size int64, name string, all []kind) (*Refusal, error) {
	p, err := newProbe(r, size, name)
	if err != nil {
		return nil, err
	}
	return p.first(all), nil
}

// first returns what the first kind says that the file is, nil if it is of none.
func (p *probe) first(all []kind) *Refusal {
	for _, k := range all {
		if k.is(p) {
			return &Refusal{Path: p.name, What: k.what, Why: k.why, Next: k.next}
		}
	}
	return nil
}

// bytes returns n bytes at an offset, nil where the file ends before.
func (p *probe) bytes(off int64, n int) []byte {
	if off < 0 || off > p.size-int64(n) {
		return nil
	}
	if off+int64(n) <= int64(len(p.head)) {
		return p.head[off : off+int64(n)]
	}
	b := make([]byte, n)
	if got, _ := p.r.ReadAt(b, off); got < n {
		return nil
	}
	return b
}

func (p *probe) has(off int64, magic string) bool {
	return string(p.bytes(off, len(magic))) == magic
}

func starts(magic string) func(*probe) bool { return at(0, magic) }

// at reports whether magic stands at an offset. Behind the start of a file that holds a
// guest stands what the guest likes.
func at(off int64, magic string) func(*probe) bool {
	return func(p *probe) bool { return p.has(off, magic) && (off == 0 || !p.holdsGuest()) }
}

// ends reports whether magic stands so many bytes ahead of the file's end.
func ends(back int64, magic string) func(*probe) bool {
	return func(p *probe) bool { return p.has(p.size-back, magic) && !p.holdsGuest() }
}

// word reports whether a file begins with a 32-bit little-endian number.
func word(magic uint32) func(*probe) bool {
	return starts(string(binary.LittleEndian.AppendUint32(nil, magic)))
}

func oneOf(all ...func(*probe) bool) func(*probe) bool {
	return func(p *probe) bool {
		for _, is := range all {
			if is(p) {
				return true
			}
		}
		return false
	}
}

// within reports whether magic is anywhere in the first bytes.
func (p *probe) within(magic string) bool { return bytes.Contains(p.head, []byte(magic)) }
