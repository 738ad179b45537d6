package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"snap/capture"
	"snap/catalog"
	"snap/cmd/snap/internal/mount"
	"snap/cmd/snap/internal/sshsig"
	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/hv"
	"snap/hv/file"
	"snap/hv/guardian"
	"snap/input"
	"snap/manifest"
	"snap/store"
)

// cause is a reason for a failure: the exit code that it ends with, and what the
// operator does next. Each reason that calls for something else to do is a row of
// its own.
type cause struct {
	is   func(error) bool
	code int
	next func(call, error) string
}

// because is a row for errors of a class.
func because(class error, code int, next func(call, error) string) cause {
	return cause{func(err error) bool { return errors.Is(err, class) }, code, next}
}

// atPlace is a row for what fails at the place for files for that reason: the same
// reason elsewhere is another row.
func atPlace(class error, code int, next func(call, error) string) cause {
	return cause{func(err error) bool {
		_, ok := errors.AsType[*store.Error](err)
		return ok && errors.Is(err, class)
	}, code, next}
}

// inState is a row for what can't be done with a domain in the state that it is in.
func inState(class error, code int) cause {
	return cause{func(err error) bool {
		_, ok := errors.AsType[*hv.StateError](err)
		return ok && errors.Is(err, class)
	}, code, func(_ call, err error) string {
		e, _ := errors.AsType[*hv.StateError](err)
		return stateAdvice(e.State, e.ID)
	}}
}

// inFolder is a row for what fails in the folder of locks and state files.
func inFolder(class error, code int, next func(call, error) string) cause {
	return cause{func(err error) bool {
		_, ok := errors.AsType[*guardian.FolderError](err)
		return ok && errors.Is(err, class)
	}, code, next}
}

// folderOf is the folder of a *guardian.FolderError, for a command.
func folderOf(err error) string {
	e, _ := errors.AsType[*guardian.FolderError](err)
	return shellPath(e.Dir)
}

// ofType is a row for errors of a type.
func ofType[T error](code int, next func(call, error) string) cause {
	return cause{func(err error) bool { _, ok := errors.AsType[T](err); return ok }, code, next}
}

// toWrite is advice for commands that write a file where -o says, and other advice for
// those that look at what lies there already.
func toWrite(writing, looking string) func(call, error) string {
	return func(c call, _ error) string {
		if c.cmd == nil || c.has("output") {
			return writing
		}
		return looking
	}
}

// say is advice that is the same whatever the command.
func say(text string) func(call, error) string {
	return func(call, error) string { return text }
}

const emptyFolder = "make one for it: mkdir FOLDER, and name that"

const otherGuests = "snap understands Windows on x86 and x86-64; use virsh dump --memory-only for other guests"

// oddKernel is for a Windows that isn't understood.
func oddKernel(c call, _ error) string {
	if !c.has("connect") {
		return "report it, with what snap convert -v says of the file"
	}
	return c.snap("check -v", c.domain()) + " lists what was tried; " + c.virsh("dump --memory-only") + " FILE keeps the memory for a later look"
}

// causes are all of them, the gravest first, then the narrower before the wider: the
// first that an error has decides.
func causes() []cause { return slices.Concat(gravestCauses(), s3Causes(), otherCauses()) }

// gravestCauses are those that decide whatever else there is.
func gravestCauses() []cause {
	return []cause{
		because(hv.ErrStillPaused, exitStillPaused, func(c call, _ error) string {
			return fmt.Sprintf("resume the guest now: %s; or %s", c.snap("recover", c.domain()), c.virsh("resume"))
		}),
		because(hv.ErrOverdue, exitTooLong, say("take the dump again when nothing stops snap: it was stopped (kill -STOP, a frozen control group, a debugger), or its destination took nothing while the guest stood still")),
		because(capture.ErrPauseTooLong, exitTooLong, func(c call, _ error) string {
			return "allow a longer pause; " + c.snap("check", c.domain()) + " says what each mode would take"
		}),
		because(guardian.ErrLocked, exitLocked, say("wait for it to end: the error names its process")),
		because(hv.ErrDisturbed, exitFailed, say("take the dump again: somebody else resumed the guest during this one")),
		because(context.Canceled, exitInterrupted, say("")),
		because(errOverdue, exitFailed, func(c call, _ error) string {
			return fmt.Sprintf("allow more than %s with --timeout, or leave it out", c.value("timeout"))
		}),
	}
}

// otherCauses are all others.
func otherCauses() []cause {
	return []cause{
		because(context.DeadlineExceeded, exitFailed, func(c call, _ error) string {
			return "somebody didn't answer in time: see whether libvirt does with " + c.snap("list") + ", and whether the host is overloaded"
		}),
		because(errInClear, exitUsage, inClearAdvice),
		because(errPeek, exitUnsupported, say("do that on the host of the domain, as root, and leave --source away: direct reads QEMU's memory there")),
		because(errSwap, exitDenied, say("run as root, or allow it to lock its memory (ulimit -l unlimited; LimitMEMLOCK=infinity in a unit of systemd's), or take the host's swap away while it runs: swapoff -a")),
		inState(hv.ErrNotRunning, exitNoDomain),
		inState(hv.ErrBusy, exitBusy),
		inState(hv.ErrUnsupported, exitUnsupported),
		because(hv.ErrNoDomain, exitNoDomain, func(c call, _ error) string {
			return c.snap("list") + " shows the domains of this connection; -c URI chooses another connection"
		}),
		because(hv.ErrNotRunning, exitNoDomain, func(c call, _ error) string {
			return c.snap("list") + " shows what the domain does; there is nothing to dump before it runs again"
		}),
		because(hv.ErrConfidential, exitConfidential, say("take the dump inside the guest: its memory is encrypted for the host")),
		because(hv.ErrBusy, exitBusy, func(c call, _ error) string {
			return fmt.Sprintf("wait for the other job to end (%s), then try again", c.virsh("domjobinfo"))
		}),
		because(hv.ErrURI, exitUnsupported, say("give -c a URI like "+alternatives(uriForms()))),
		because(hv.ErrUnsupported, exitUnsupported, unsupportedAdvice),
		because(hv.ErrDenied, exitDenied, deniedAdvice),
		because(hv.ErrNoAnswer, exitFailed, func(c call, _ error) string {
			s := "something of libvirt's is stopped or very busy: see whether virsh list --all answers (if not: systemctl status libvirtd virtqemud; guests run on while it is restarted)"
			if c.domain() != "DOMAIN" {
				s += ", and whether the domain has a job: " + c.virsh("domjobinfo")
			}
			return s
		}),
		because(hv.ErrUnreachable, exitFailed, say("make sure that libvirt's daemon runs (systemctl status libvirtd virtqemud) and that the URI of -c leads to it")),

		because(guardian.ErrProcess, exitFailed, say("take the dump again; if it was killed, dmesg or journalctl -k tells by what (the out-of-memory killer?)")),
		because(guardian.ErrUnbelieved, exitFailed, func(c call, _ error) string {
			return "if no dump of it runs, have it removed: " + c.snap("recover --force", c.domain())
		}),
		ofType[*guardian.FilesError](exitFailed, func(c call, _ error) string {
			return "see to what the files lie on (mounted? writable?) and run snap recover again; snap recover --force forgets them"
		}),
		because(store.ErrLeftBehind, exitFailed, say("remove it once what it lies on answers again: the error says how it is called")),
		inFolder(fs.ErrPermission, exitDenied, func(_ call, err error) string {
			return "make it a folder of your own that nobody else may write to, or remove it if no dump is running: ls -ld " + folderOf(err)
		}),
		inFolder(syscall.ENOSPC, exitFailed, func(_ call, err error) string { return "free some space there: df " + folderOf(err) }),
		inFolder(syscall.EROFS, exitDenied, func(_ call, err error) string { return "make it writable: findmnt -T " + folderOf(err) }),
		ofType[*guardian.FolderError](exitFailed, func(_ call, err error) string { return "see what is there: ls -la " + folderOf(err) }),
		because(guest.ReasonFirmware, exitNotWindows, say("wait until Windows has started, then try again")),
		because(guest.ReasonEncrypted, exitConfidential, say("take the dump inside the guest: its memory is encrypted for the host")),
		because(guest.ReasonKernel, exitNotWindows, oddKernel),
		because(guest.ReasonNoKernel, exitNotWindows, oddKernel),
		because(guest.ReasonEnded, exitNotWindows, oddKernel),
		because(guest.ReasonNested, exitNotWindows, oddKernel),
		because(guest.ReasonRAMMap, exitNotWindows, func(c call, _ error) string {
			if c.has("connect") {
				return "see whether the guest is being started or restarted, and try again; snap check -v tells what was tried"
			}
			return "see whether the file is whole, and of a raw image say where its memory lies: snap convert --raw --ram"
		}),
		because(guest.ErrNotWindows, exitNotWindows, func(c call, _ error) string {
			if c.has("connect") {
				return otherGuests
			}
			return "snap understands memory of Windows on x86 and x86-64; if it is that, see whether the file is whole and where its memory lies"
		}),
		{func(err error) bool {
			r, ok := errors.AsType[*input.Refusal](err)
			return ok && r.OtherGuest
		}, exitNotWindows, refusalNext},
		ofType[*input.Refusal](exitFailed, refusalNext),
		ofType[*input.NoRoomError](exitNoSpace, func(_ call, err error) string {
			r, _ := errors.AsType[*input.NoRoomError](err)
			return strings.ReplaceAll("expand it where there is room and give the result: "+r.Command, "FILE", shellPath(r.Path))
		}),
		because(file.ErrArch, exitNotWindows, say(otherGuests)),
		because(input.ErrShrunk, exitFailed, say("wait until whatever writes the file has ended, then run the same command again")),
		because(input.ErrCompression, exitFailed, say("copy the file again: it is cut short or damaged on its way (gzip -t, zstd -t, xz -t and unzip -t test one)")),
		because(input.ErrEncryption, exitFailed, say("copy the file again: it is cut short, or was changed on its way or by somebody (sha256sum prints what sha256 in its manifest has, if it is whole)")),
		ofType[*input.LockedError](exitDenied, lockedAdvice),
		ofType[*input.IdentityError](exitUsage, identityAdvice),
		because(exclude.ErrTooMany, exitFailed, func(c call, _ error) string {
			return c.snap("check --no-advertised", c.domain()) + " lists who asks; --no-advertised keeps all of it in the dump, --max-excluded raises the limit"
		}),
		because(exclude.ErrRange, exitUsage, say(rangesAdvice)),
		because(capture.ErrNotExcluded, exitFailed, func(c call, _ error) string {
			return "correct --exclude: pa: ranges must be the guest's memory, and va: ranges mapped for the System process"
		}),
		because(capture.ErrUnmet, exitUnmet, say("leave --require-exclusions away: the dump then ends with exit code 3, and its manifest lists what is in it against somebody's wish; or have the driver that the error names corrected")),
		because(capture.ErrTooManyRuns, exitFailed, say("--format bitmap has room for any number of holes")),

		ofType[*store.SpaceError](exitNoSpace, func(_ call, err error) string {
			e, _ := errors.AsType[*store.SpaceError](err)
			return fmt.Sprintf("make room for at least another %s there, or choose another destination with -o", bytesMissing(e))
		}),
		atPlace(syscall.ENOSPC, exitNoSpace, say("free some space, or choose another destination with -o")),
		atPlace(syscall.EDQUOT, exitNoSpace, say("free some of your quota, or choose another destination with -o")),
		atPlace(syscall.EFBIG, exitNoSpace, say("allow larger files (ulimit -f), or choose with -o a file system that can have them")),
		atPlace(store.ErrNotRegular, exitFailed, say("choose another name with -o: only a regular file can be replaced")),
		atPlace(store.ErrNotFolder, exitFailed, toWrite("name a file in a folder with -o", "name the folder that the dumps lie in")),
		atPlace(store.ErrName, exitFailed, say("give -o the name of a file, or a folder and /")),
		atPlace(store.ErrOneFile, exitFailed, say("name a file with -o: standard output takes one file only")),
		atPlace(fs.ErrExist, exitFailed, existsAdvice),
		atPlace(syscall.ENAMETOOLONG, exitFailed, say("choose a shorter name with -o")),
		atPlace(fs.ErrNotExist, exitFailed, func(c call, err error) string {
			e, _ := errors.AsType[*store.Error](err)
			return toWrite("make the folder first: mkdir -p "+shellPath(e.Path), "see whether the name is right: ls -ld "+shellPath(e.Path))(c, err)
		}),
		atPlace(syscall.EROFS, exitDenied, toWrite("that file system is mounted read-only: choose another destination with -o", "that file system is mounted read-only: nothing can be removed there")),
		atPlace(fs.ErrPermission, exitDenied, toWrite("choose with -o a place where you may write, or run as a user who may", "run as a user who may do that there")),
		because(mount.ErrNoFUSE, exitFailed, func(c call, _ error) string {
			return "load its module (modprobe fuse) and install fuse3, or expand the dump: " + c.snap("expand", c.file()) + " -o OUT.dmp"
		}),
		because(mount.ErrDenied, exitDenied, func(c call, _ error) string {
			return "run as root, in a container with CAP_SYS_ADMIN and /dev/fuse, or expand the dump: " + c.snap("expand", c.file()) + " -o OUT.dmp"
		}),
		because(mount.ErrNotEmpty, exitFailed, say(emptyFolder)),
		because(mount.ErrNotFolder, exitFailed, say(emptyFolder)),
		because(mount.ErrNoFolder, exitFailed, say(emptyFolder)),
		because(mount.ErrStale, exitFailed, say("take it away first: umount -l with that folder")),
		because(mount.ErrRefused, exitFailed, say("see what the kernel says (dmesg) and fusermount3; for all users to read it, /etc/fuse.conf must have user_allow_other")),
		because(mount.ErrBusy, exitFailed, say("nothing is left in the folder, and whoever has the file open gets errors from now on: close it there")),
		because(catalog.ErrTooMany, exitFailed, say("keep dumps in a folder of their own, and nothing else there")),
		because(catalog.ErrChanged, exitFailed, say("somebody else writes there: run the same command again, which looks at it anew")),
		because(store.ErrNoArchive, exitFailed, say("name the folder that the dumps lie in")),
		because(store.ErrKept, exitDenied, say("wait until its retention is over: who set it, for the file or for the place as a whole, can say until when")),
		atPlace(syscall.EIO, exitFailed, toWrite("the destination fails (dmesg tells of its device): choose another one with -o", "the disk fails: dmesg tells of its device")),

		because(dump.ErrEncoding, exitFailed, say("take the dump again; if that fails too, this host's memory or a processor of it may be faulty (dmesg, memtest86+)")),
		because(dump.ErrSource, exitFailed, func(c call, _ error) string {
			if !c.has("connect") {
				return "the file lacks memory that it lists: see whether it was copied whole, or make it again"
			}
			s := "see what becomes of the guest: " + c.virsh("domstate")
			if c.has("source") && c.value("source") != string(hv.MechanismPeek) {
				s += "; --source peek reads it another way"
			}
			return s
		}),
		because(store.ErrDecrypt, exitFailed, say("take the dump again; if that fails too, this host's memory or a processor of it may be faulty, or the destination's disk (dmesg, memtest86+)")),
		because(store.ErrRecipient, exitUsage, say("give --encrypt-to the public key of whoever is to open the dump, which age-keygen -y KEYFILE prints (age1…), or @FILE for a file that lists such keys")),
		because(hv.ErrNotUnderstood, exitFailed, func(c call, _ error) string {
			return "see whether QEMU and libvirt (virsh version) are newer than this snap, and try a newer one; " + c.virsh("dump --memory-only") + " FILE takes the memory without snap"
		}),
		because(hv.ErrRefused, exitFailed, say("libvirt's and QEMU's logs say more, on the host of the domain: journalctl -u libvirtd -u virtqemud, and the domain's in /var/log/libvirt/qemu (in a session of your own: ~/.cache/libvirt/qemu/log)")),
		because(syscall.EPIPE, exitFailed, say("whatever reads standard output ended before the dump did: see what became of it")),
		because(syscall.ENOMEM, exitFailed, memoryAdvice),
		because(syscall.ENOSPC, exitFailed, say("free space outside of the destination: the error says where (/run, or memory of the host)")),
		because(fs.ErrPermission, exitDenied, func(c call, _ error) string {
			return "run as a user who may read that (ls -l " + shellPath(c.file()) + ")"
		}),
		because(sshsig.ErrPassphrase, exitUsage, say("nobody is there to type a passphrase: give it a key of its own without a passphrase, that only root reads: ssh-keygen -t ed25519 -N '' -f KEY")),
		because(sshsig.ErrKey, exitUsage, say("name the private key and not KEY.pub, in a form of OpenSSH's; keys in a token (sk-) can't sign without somebody: ssh-keygen -t ed25519 -N '' -f KEY makes one")),
		because(manifest.ErrOther, exitFailed, say("name the account that was written with this very dump, OUTPUT.json; if it is that, the dump or the account was changed since: keep both as they are")),
		because(manifest.ErrFormat, exitFailed, func(c call, _ error) string {
			return c.snap("verify", c.file()) + " tells whether the dump itself is whole"
		}),
		because(dump.ErrSequential, exitFailed, func(c call, _ error) string {
			return "expand it first: " + c.snap("expand", c.file()) + " -o OUT.dmp"
		}),
		because(dump.ErrFormat, exitFailed, damagedAdvice),
		because(hv.ErrFormat, exitFailed, func(c call, _ error) string {
			return "see what it is (file " + shellPath(c.file()) + ") and whether it was copied whole"
		}),
		because(fs.ErrNotExist, exitFailed, func(c call, _ error) string {
			return "see whether the name is right: ls -l " + shellPath(c.file())
		}),
		because(fs.ErrExist, exitFailed, existsAdvice),
		because(errNotRemoved, exitFailed, func(c call, _ error) string {
			return c.snap("ls", c.file()) + " says what is left; run the same command again when what failed is mended"
		}),
	}
}

// refusalNext is what the refusal of a file says.
func refusalNext(_ call, err error) string {
	r, _ := errors.AsType[*input.Refusal](err)
	return refusalAdvice(r)
}

// unsupportedAdvice names only what was asked for and can be left to snap.
func unsupportedAdvice(c call, _ error) string {
	var free []string
	for _, flag := range []string{"mode", "source"} {
		if v := c.value(flag); v != "" && v != capture.ModeAuto {
			free = append(free, "--"+flag+" auto")
		}
	}
	switch {
	case c.value(requireFlag) == "true" && c.value("source") == string(hv.MechanismAuto) && len(free) == 0:
		return "do that on the host of the domain, as root: under --" + requireFlag + " only QEMU's own memory is read there; " + c.snap("check -v", c.domain()) + " says what is in the way"
	case len(free) > 0:
		return fmt.Sprintf("let snap choose: %s; %s says what works", strings.Join(free, " "), c.snap("check", c.domain()))
	case c.has("mode"):
		return c.snap("check -v", c.domain()) + " says what is in the way; " + c.virsh("dump --memory-only") + " FILE takes the memory without snap"
	}
	return "the error says what is in the way; " + c.snap("list") + " shows which domains can be dumped"
}

// deniedAdvice tells the daemon's refusal from the kernel's.
func deniedAdvice(c call, err error) string {
	var p *fs.PathError
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return "join the group that owns libvirt's socket (libvirt on most systems), or run as root; qemu:///session has your own domains"
	}
	if errors.As(err, &p) && strings.HasPrefix(p.Path, "/proc/") || errors.Is(err, syscall.EPERM) {
		s := "run as root, or as the user that QEMU runs as"
		if c.has("source") {
			s += "; --source peek needs no right on QEMU's process"
		}
		return s
	}
	return "libvirt allows it to others: run as root, or be given access (man polkit; the connection must not be read-only)"
}

// existsAdvice says how to replace a file, where that can be.
func existsAdvice(c call, err error) string {
	if _, ok := errors.AsType[*capture.ManifestError](err); ok {
		return "move the old manifest away, replace both with --force, or do without: --manifest=false"
	}
	if c.has("output") && c.has("force") && c.value("force") != "true" {
		return "choose another name with -o, or replace the file with --force"
	}
	return "choose another name with -o"
}

func memoryAdvice(c call, _ error) string {
	if c.has("spool") {
		return "free memory of the host, or use less of it: --spool off, --memory 64MiB"
	}
	return "free memory of the host, then try again"
}

// damagedAdvice is about what is no whole dump.
func damagedAdvice(c call, _ error) string {
	file := shellPath(c.file())
	return fmt.Sprintf("see what it is: file %s; another tool's file is made a dump by snap convert %s -o OUT.dmp.zst; a damaged dump can't be mended: copy it again, or take it again", file, file)
}

// bytesMissing is by how much a file doesn't fit.
func bytesMissing(e *store.SpaceError) string {
	return fmt.Sprintf("%d MiB", (e.Size.Most-min(e.Size.Most, e.Space.Most))>>20+1)
}
