package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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
	"snap/phys"
	"snap/store"
)

// situation is a reason for a failure as it reaches an operator: by which command,
// with which exit code, and what the next step must and must not say.
type situation struct {
	err     error
	command string
	code    int
	next    string // words that it must have, separated by " | "
	never   string // words that would be wrong, separated likewise
}

// inSituations are reasons with what an operator should do, by the name of the
// sentinel or the type of the error that they are made of, or of the system's. One
// name may have many: what to do depends on where it happened.
func inSituations() map[string][]situation {
	place := func(err error) error { return &store.Error{Doing: "create", Path: "/backup/a b.dmp.zst", Err: err} }
	bucket := func(err error) error { return &store.Error{Doing: "open", Path: "s3://b/a.dmp", Err: err} }
	folder := func(err error) error { return &guardian.FolderError{Doing: "lock", Dir: "/run/snap", Err: err} }
	path := func(path string, err error) error { return &fs.PathError{Op: "open", Path: path, Err: err} }
	const d = "dump -c lab:/// web01"
	return map[string][]situation{
		"hv.ErrStillPaused": {
			{hv.ErrStillPaused, "dump 'my guest'", exitStillPaused, "snap recover 'my guest' | virsh -c qemu:///system resume 'my guest'", ""},
			{fmt.Errorf("%w: %w", hv.ErrStillPaused, hv.ErrUnreachable), d, exitStillPaused, "snap recover -c lab:/// web01", "systemctl"},
		},
		"hv.ErrOverdue":            {{&hv.OverdueError{Held: time.Minute, Why: "the test says so"}, d, exitTooLong, "take the dump again | kill -STOP", "--max-pause"}},
		"capture.ErrPauseTooLong":  {{capture.ErrPauseTooLong, d, exitTooLong, "snap check -c lab:/// web01", ""}},
		"capture.PauseError":       {{pauseAdvice(&capture.PauseError{Limit: time.Second, Estimate: capture.PauseEstimate{Pages: 1 << 18}}), d, exitTooLong, "--max-pause | --spool", ""}},
		"guardian.ErrLocked":       {{guardian.ErrLocked, d, exitLocked, "wait", "--force"}},
		"guardian.ErrProcess":      {{guardian.ErrProcess, d, exitFailed, "take the dump again | dmesg", ""}},
		"hv.ErrURI":                {{hv.ErrURI, "dump -c qemo:///system --mode live web01", exitUnsupported, "qemu:///system | -c", "--mode"}},
		"guardian.ErrUnbelieved":   {{fmt.Errorf("%w: %w", guardian.ErrUnbelieved, hv.ErrFormat), d, exitFailed, "snap recover --force -c lab:/// web01", "file"}},
		"guardian.FilesError":      {{&guardian.FilesError{Err: fs.ErrNotExist}, "recover", exitFailed, "snap recover --force", "mkdir"}},
		"store.ErrLeftBehind":      {{store.ErrLeftBehind, d, exitFailed, "remove it", ""}},
		"hv.ErrDisturbed":          {{hv.ErrDisturbed, d, exitFailed, "take the dump again", ""}},
		"context.Canceled":         {{context.Canceled, d, exitInterrupted, "", ""}},
		"snap.errOverdue":          {{fmt.Errorf("%w: %w", errOverdue, context.DeadlineExceeded), "dump --timeout 10m web01", exitFailed, "more than 10m0s with --timeout", "systemctl"}},
		"context.DeadlineExceeded": {{context.DeadlineExceeded, "list", exitFailed, "answer", "--timeout"}, {context.DeadlineExceeded, d, exitFailed, "answer", "--timeout"}},
		"snap.errInClear":          {{errInClear, "dump --require-encryption web01", exitUsage, "--encrypt-to KEY", "machine of"}, {errInClear, "expand --require-encryption x -o y", exitUsage, "on the machine of whoever has the key", "--encrypt-to"}},
		"snap.errPeek":             {{errPeek, "dump --source peek web01", exitUnsupported, "on the host of the domain", "--source auto"}},
		"snap.errSwap":             {{fmt.Errorf("%w: %w", errSwap, syscall.EPERM), d, exitDenied, "LimitMEMLOCK=infinity | swapoff -a", "-o"}},
		"hv.ErrNoDomain":           {{hv.ErrNoDomain, d, exitNoDomain, "snap list -c lab:///", ""}},
		"hv.ErrNotRunning":         {{hv.ErrNotRunning, d, exitNoDomain, "snap list", "start it | virsh start"}},
		"hv.ErrConfidential":       {{hv.ErrConfidential, d, exitConfidential, "inside the guest", ""}},
		"hv.ErrBusy":               {{hv.ErrBusy, d, exitBusy, "virsh -c lab:/// domjobinfo web01", ""}},
		"file.ErrArch":             {{file.ErrArch, "convert x.elf", exitNotWindows, "virsh dump --memory-only", ""}},
		"input.ErrShrunk":          {{input.ErrShrunk, "convert x.elf", exitFailed, "wait until whatever writes", ""}},
		"input.ErrCompression":     {{input.ErrCompression, "convert x.gz", exitFailed, "copy the file again", ""}},
		"input.ErrEncryption":      {{fmt.Errorf("%w: %w", dump.ErrFormat, input.ErrEncryption), "verify x.age", exitFailed, "copy the file again", "snap convert"}},
		"input.LockedError": {
			{&input.LockedError{Path: "a b.age", To: []string{"an age key"}}, "verify 'a b.age'", exitDenied, "--identity KEYFILE", "right"},
			{&input.LockedError{Path: "a b.age", To: []string{"an age key"}, Keys: 1}, "verify 'a b.age'", exitDenied, "the right private key | encrypted_to | age-keygen -y", ""},
			{&input.LockedError{Path: "a b.age", To: []string{"a passphrase"}}, "verify 'a b.age'", exitDenied, "age -d -o OUT 'a b.age'", "--identity"},
			{&input.LockedError{Path: "x.age"}, "list", exitDenied, "age -d -i KEYFILE -o OUT x.age", "--identity"},
		},
		"input.IdentityError": {{&input.IdentityError{Path: "k k", Why: "w", Next: "do it: FILE"}, "verify --identity 'k k' x", exitUsage, "do it: 'k k'", ""}},
		"input.Refusal":       {{&input.Refusal{Path: "x", What: "a disk", Next: "read FILE"}, "convert x", exitFailed, "read FILE", ""}, {&input.Refusal{Path: "x", What: "a dump", Next: "open FILE", OtherGuest: true}, "convert x", exitNotWindows, "open FILE", ""}},
		"input.NoRoomError":   {{&input.NoRoomError{Path: "a b.gz", Command: "gunzip FILE"}, "convert 'a b.gz'", exitNoSpace, "gunzip 'a b.gz'", ""}},
		"guest.Reason": {
			{guest.ReasonFirmware, d, exitNotWindows, "wait until Windows has started", "virsh dump"},
			{guest.ReasonEncrypted, d, exitConfidential, "inside the guest", "virsh"},
			{guest.ReasonKernel, d, exitNotWindows, "snap check -v -c lab:/// web01 | dump --memory-only web01", "wait"},
			{guest.ReasonKernel, "convert x.elf", exitNotWindows, "report", "virsh"},
			{guest.ReasonRAMMap, d, exitNotWindows, "restarted | snap check -v", "--ram"},
			{guest.ReasonRAMMap, "convert --raw x", exitNotWindows, "--ram | whole", "virsh"},
			{fmt.Errorf("%w: %w", guest.ErrNotWindows, guest.ReasonLinux), d, exitNotWindows, "virsh dump --memory-only", "wait"},
		},
		"hv.StateError": {
			{&hv.StateError{ID: hv.Identity{Name: "my guest", URI: "qemu:///system"}, State: hv.StateOff}, d, exitNoDomain, "'my guest'", ""},
			{&hv.StateError{ID: hv.Identity{Name: "a", URI: "qemu:///system"}, State: hv.StateMoving}, d, exitBusy, "", "start"},
			{&hv.StateError{ID: hv.Identity{Name: "a", URI: "qemu:///system"}, State: hv.StateAsleep}, d, exitUnsupported, "--mode live", "virsh -c qemu:///system start"},
		},
		"hv.ErrNoAnswer":         {{hv.ErrNoAnswer, "list", exitFailed, "virsh list --all | systemctl status", "--timeout"}, {hv.ErrNoAnswer, d, exitFailed, "virsh -c lab:/// domjobinfo web01", "--timeout"}},
		"hv.ErrNotUnderstood":    {{hv.ErrNotUnderstood, d, exitFailed, "virsh version | virsh -c lab:/// dump --memory-only web01", "--force"}},
		"hv.ErrRefused":          {{hv.ErrRefused, "dump 'my guest'", exitFailed, "journalctl | /var/log/libvirt/qemu | ~/.cache/libvirt/qemu/log", "systemctl"}, {fmt.Errorf("%w: %w", dump.ErrSource, hv.ErrRefused), d, exitFailed, "domstate", "journalctl"}},
		"hv.ErrUnreachable":      {{hv.ErrUnreachable, "list", exitFailed, "systemctl status", ""}},
		"hv.ErrFormat":           {{hv.ErrFormat, "convert 'a b.elf'", exitFailed, "file 'a b.elf'", "--force"}},
		"exclude.ErrTooMany":     {{exclude.ErrTooMany, d, exitFailed, "snap check --no-advertised -c lab:/// web01 | --max-excluded", ""}},
		"exclude.ErrRange":       {{exclude.ErrRange, d, exitUsage, "pa:0x1000+16", ""}},
		"capture.ErrNotExcluded": {{capture.ErrNotExcluded, d, exitFailed, "correct --exclude", ""}},
		"capture.ErrUnmet":       {{capture.ErrUnmet, "dump --require-exclusions web01", exitUnmet, "--require-exclusions | exit code 3", "--force"}},
		"capture.ErrTooManyRuns": {{capture.ErrTooManyRuns, d, exitFailed, "--format bitmap", ""}},
		"dump.ErrSource":         {{dump.ErrSource, d, exitFailed, "domstate | --source peek", ""}, {dump.ErrSource, "dump --source peek web01", exitFailed, "domstate", "--source peek"}, {dump.ErrSource, "convert web01.elf", exitFailed, "copied whole", "domstate"}},
		"dump.ErrEncoding":       {{dump.ErrEncoding, d, exitFailed, "take the dump again | dmesg", "--force"}},
		"dump.ErrSequential":     {{dump.ErrSequential, "info x.gz", exitFailed, "snap expand x.gz -o", ""}},
		"sshsig.ErrPassphrase":   {{sshsig.ErrPassphrase, "dump --sign-key key web01", exitUsage, "ssh-keygen -t ed25519", ""}},
		"sshsig.ErrKey":          {{sshsig.ErrKey, "dump --sign-key key.pub web01", exitUsage, "private key", ""}},
		"manifest.ErrOther":      {{manifest.ErrOther, "expand --manifest web01.json web01.dmp.zst -o a.dmp", exitFailed, "OUTPUT.json", ""}},
		"manifest.ErrFormat":     {{manifest.ErrFormat, "info --manifest -- -x", exitFailed, "snap verify -- -x", ""}},
		"store.ErrNotRegular":    {{place(fmt.Errorf("%w: %w", store.ErrNotRegular, fs.ErrExist)), d, exitFailed, "another name", "--force"}},
		"store.ErrNotFolder":     {{place(store.ErrNotFolder), d, exitFailed, "a file in a folder", "mkdir"}},
		"store.ErrName":          {{place(store.ErrName), d, exitFailed, "-o", ""}},
		"snap.errNotRemoved":     {{fmt.Errorf("%w: %w", errNotRemoved, errors.New("x")), "prune --keep-last 1 '/my backup'", exitFailed, "snap ls '/my backup'", "--force"}},
		"mount.ErrNoFUSE":        {{mount.ErrNoFUSE, "mount 'a b.dmp.zst' m", exitFailed, "modprobe fuse | snap expand 'a b.dmp.zst'", ""}},
		"mount.ErrDenied":        {{fmt.Errorf("%w: %w", mount.ErrDenied, syscall.EPERM), "mount a.dmp.zst m", exitDenied, "run as root | snap expand a.dmp.zst", "ptrace"}},
		"mount.ErrNotEmpty":      {{mount.ErrNotEmpty, "mount a.dmp.zst m", exitFailed, "mkdir", "-o"}},
		"mount.ErrNotFolder":     {{mount.ErrNotFolder, "mount a.dmp.zst m", exitFailed, "mkdir", "-o"}},
		"mount.ErrNoFolder":      {{fmt.Errorf("%w: %w", mount.ErrNoFolder, fs.ErrNotExist), "mount a.dmp.zst m", exitFailed, "mkdir", "-o"}},
		"mount.ErrStale":         {{mount.ErrStale, "mount a.dmp.zst m", exitFailed, "umount -l", ""}},
		"mount.ErrRefused":       {{mount.ErrRefused, "mount a.dmp.zst m", exitFailed, "dmesg | user_allow_other", ""}},
		"mount.ErrBusy":          {{mount.ErrBusy, "mount a.dmp.zst m", exitFailed, "nothing is left", ""}},
		"catalog.ErrTooMany":     {{fmt.Errorf("look into /: %w", catalog.ErrTooMany), "ls /", exitFailed, "a folder of their own", "-o"}},
		"catalog.ErrChanged":     {{fmt.Errorf("remove x: %w", catalog.ErrChanged), "ls /backup", exitFailed, "again", "--force"}},
		"store.ErrNoArchive":     {{fmt.Errorf("look into -: %w", store.ErrNoArchive), "ls -", exitFailed, "name the folder", "-o"}},
		"store.ErrKept":          {{fmt.Errorf("remove x: %w", store.ErrKept), "ls /backup", exitDenied, "retention", "--force"}},
		"store.ErrOneFile":       {{place(store.ErrOneFile), d, exitFailed, "-o", ""}},
		"store.ErrDecrypt":       {{store.ErrDecrypt, d, exitFailed, "take the dump again | dmesg", "--force"}},
		"store.ErrRecipient":     {{fmt.Errorf("--encrypt-to: %w", store.ErrRecipient), "dump --encrypt-to web01 web01", exitUsage, "age-keygen -y", ""}},
		"store.ErrUpload": {
			{bucket(fmt.Errorf("%w: odd", store.ErrUpload)), d, exitUpload, "again", ""},
			{bucket(fmt.Errorf("%w: %w", store.ErrUpload, store.ErrCredentials)), d, exitUpload, "still valid", ""},
			{bucket(fmt.Errorf("%w: %w", store.ErrUpload, fs.ErrExist)), d, exitFailed, "another name", "again"},
			{bucket(fmt.Errorf("%w: %w", store.ErrUpload, context.Canceled)), d, exitInterrupted, "", ""},
		},
		"store.KeptError":        {{&store.KeptError{Path: "/var/dumps/a b.dmp", Err: bucket(fmt.Errorf("%w: %w", store.ErrUpload, fs.ErrExist))}, d, exitUpload, "'/var/dumps/a b.dmp'", "--force"}},
		"store.ErrNoCredentials": {{bucket(store.ErrNoCredentials), d, exitDenied, "AWS_PROFILE | --s3-credentials", ""}},
		"store.ErrCredentials":   {{bucket(store.ErrCredentials), d, exitDenied, "valid | --s3-endpoint", ""}},
		"store.ErrClock":         {{bucket(store.ErrClock), d, exitFailed, "timedatectl", ""}},
		"store.ErrNoBucket":      {{bucket(store.ErrNoBucket), d, exitFailed, "make the bucket", "mkdir"}},
		"store.ErrRegion":        {{bucket(store.ErrRegion), d, exitFailed, "--s3-region", ""}},
		"store.ErrNoRetention":   {{bucket(store.ErrNoRetention), d, exitFailed, "object lock", ""}},
		"store.ErrEndpoint":      {{bucket(store.ErrEndpoint), d, exitUsage, "--s3-endpoint", ""}},
		"store.ErrTooLong":       {{bucket(fmt.Errorf("%w: %w", store.ErrUpload, store.ErrTooLong)), d, exitUpload, "a folder", ""}},
		"store.ErrChecksum":      {{bucket(fmt.Errorf("%w: %w", store.ErrUpload, store.ErrChecksum)), d, exitUpload, "changes bytes", ""}},
		"store.ErrReplaced":      {{bucket(store.ErrReplaced), "verify s3://b/a.dmp", exitFailed, "the same command", ""}},
		"store.ErrServer":        {{bucket(store.ErrServer), "verify s3://b/a.dmp", exitFailed, "--s3-endpoint", ""}, {bucket(fs.ErrPermission), "verify s3://b/a.dmp", exitDenied, "docs/s3.md", "-o"}, {bucket(fs.ErrNotExist), "verify s3://b/a.dmp", exitFailed, "the key", "mkdir | ls"}},
		"store.SpaceError":       {{&store.SpaceError{Size: store.Size{Most: 5 << 20}, Space: store.Space{Most: 1 << 20}}, d, exitNoSpace, "5 MiB | -o", ""}},
		"snap.valueError":        {{wrongValue("nice", 20, "0 to 19"), d, exitUsage, "snap dump --help", ""}},
		"snap.cmdError":          {{usageError("wrong"), "list", exitUsage, "snap list --help", ""}, {next(errDegraded, "read"), d, exitFailed, "read", ""}},
		"snap.errDegraded":       {{&cmdError{err: errDegraded, code: exitDegraded, next: "read"}, d, exitDegraded, "read", ""}},
		"snap.errHeaderDegraded": {{&cmdError{err: errHeaderDegraded, code: exitDegraded, next: "read"}, "header web01", exitDegraded, "read", ""}},
		"snap.errWouldDegrade":   {{&cmdError{err: errWouldDegrade, code: exitDegraded, next: "take"}, "check web01", exitDegraded, "take", ""}},
		"snap.errVerdict":        {{failedVerdict("x", &manifest.Verify{}, nil), "verify x", exitFailed, "FAIL", ""}},
		"guest.ErrNotWindows":    {{guest.ErrNotWindows, d, exitNotWindows, "Windows on x86 | virsh dump", ""}, {guest.ErrNotWindows, "convert x", exitNotWindows, "Windows on x86", "virsh"}},
		"dump.ErrFormat":         {{dump.ErrFormat, "verify x.elf", exitFailed, "file x.elf | snap convert x.elf -o", "--force"}, {dump.ErrFormat, "expand '$x' -o y.dmp", exitFailed, "snap convert '$x'", ""}},
		"hv.ErrUnsupported": {
			{hv.ErrUnsupported, "dump --mode snapshot web01", exitUnsupported, "--mode auto", "--source auto"},
			{hv.ErrUnsupported, "dump --source direct web01", exitUnsupported, "--source auto", "--mode auto"},
			{hv.ErrUnsupported, "dump --source direct --mode live web01", exitUnsupported, "--source auto | --mode auto", ""},
			{hv.ErrUnsupported, "dump web01", exitUnsupported, "virsh -c qemu:///system dump --memory-only web01", "--mode auto | --source auto"},
			{hv.ErrUnsupported, "dump --require-encryption web01", exitUnsupported, "on the host of the domain, as root", "virsh"},
			{hv.ErrUnsupported, "header web01", exitUnsupported, "snap list", "--mode | --source"},
		},
		"hv.ErrDenied": {
			{fmt.Errorf("%w: %w", hv.ErrDenied, &net.OpError{Op: "dial", Net: "unix", Err: syscall.EACCES}), "list", exitDenied, "group that owns libvirt's socket", "QEMU's process"},
			{fmt.Errorf("%w: %w", hv.ErrDenied, path("/proc/12/mem", syscall.EACCES)), d, exitDenied, "as the user that QEMU runs as | --source peek", "libvirt on most"},
			{fmt.Errorf("%w: %w", hv.ErrDenied, path("/proc/12/mem", syscall.EACCES)), "list", exitDenied, "as the user that QEMU runs as", "--source"},
			{hv.ErrDenied, d, exitDenied, "polkit", "ptrace"},
		},
		"guardian.FolderError": {
			{folder(fs.ErrPermission), d, exitDenied, "/run/snap", "-o"},
			{folder(errors.New("there are too many")), "recover", exitFailed, "ls -la /run/snap", "-o"},
			{folder(syscall.ENOSPC), d, exitFailed, "df /run/snap", "-o"},
			{folder(syscall.EROFS), d, exitDenied, "findmnt", "-o"},
		},
		"store.Error": {
			{place(syscall.ENOSPC), d, exitNoSpace, "free some space | -o", ""},
			{place(syscall.EDQUOT), d, exitNoSpace, "quota", ""},
			{place(syscall.EFBIG), d, exitNoSpace, "ulimit -f", ""},
			{place(syscall.EROFS), d, exitDenied, "read-only", ""},
			{place(fs.ErrPermission), d, exitDenied, "-o a place where you may write", "ptrace"},
			{place(syscall.ENAMETOOLONG), d, exitFailed, "shorter", ""},
			{place(fs.ErrNotExist), d, exitFailed, "mkdir -p '/backup/a b.dmp.zst'", ""},
			{place(fs.ErrExist), d, exitFailed, "--force", ""},
			{place(fs.ErrExist), "dump --force web01", exitFailed, "another name", "--force"},
			{place(syscall.EIO), d, exitFailed, "dmesg | -o", ""},
			{place(fs.ErrNotExist), "ls /backup", exitFailed, "ls -ld '/backup/a b.dmp.zst'", "mkdir | -o"},
			{place(fs.ErrPermission), "ls /backup", exitDenied, "a user who may", "-o"},
			{place(syscall.EROFS), "ls /backup", exitDenied, "read-only", "choose"},
			{place(syscall.EIO), "ls /backup", exitFailed, "dmesg", "-o"},
			{place(store.ErrNotFolder), "ls /backup", exitFailed, "the folder", "-o"},
		},
		"capture.ManifestError": {{&capture.ManifestError{Err: place(fs.ErrExist)}, d, exitFailed, "--manifest=false | --force", ""}},
		"fs": {
			{path("x.dmp", fs.ErrNotExist), "verify 'x y.dmp'", exitFailed, "ls -l 'x y.dmp'", "mkdir | --force"},
			{path("x.dmp", fs.ErrPermission), "verify x.dmp", exitDenied, "ls -l x.dmp", "-o"},
			{fs.ErrExist, "recover", exitFailed, "another name", "--force"},
			{syscall.ENOSPC, d, exitFailed, "outside of the destination", ""},
			{syscall.EPIPE, "dump -o - web01", exitFailed, "standard output", ""},
			{syscall.ENOMEM, d, exitFailed, "--spool off", ""},
			{syscall.ENOMEM, "verify x", exitFailed, "memory", "--spool"},
			{errors.New("something else"), d, exitFailed, "-v", ""},
		},
	}
}

// neverAlone are the sentinels and types that reach an operator only as a part of
// another reason, or not at all: why.
var neverAlone = map[string]string{
	"phys.ErrNotRAM":          "a gap in the dump, or a reason within guest.ErrNotWindows",
	"phys.AccessError":        "as phys.ErrNotRAM",
	"guest.ErrNotPresent":     "a reason within guest.ErrNotWindows",
	"guest.ErrNotCanonical":   "a reason within guest.ErrNotWindows",
	"guest.ErrNotFound":       "a reason within guest.ErrNotWindows",
	"guest.ErrNoKDBG":         "a reason within guest.ErrNotWindows",
	"guest.ErrMalformed":      "a warning, or a reason within guest.ErrNotWindows",
	"guest.errBudget":         "a reason within guest.ErrNotWindows",
	"guest.budgetError":       "guest.errBudget",
	"guest.errForwarded":      "an export that is passed over",
	"guest.errNotTried":       "a reason within guest.ErrNotWindows",
	"guest.errNoKernel":       "a reason within guest.ErrNotWindows",
	"guest.errLacking":        "a reason within guest.ErrNotWindows, or the guest is found all the same",
	"guest.errFound":          "ends a walk",
	"guest.FormatError":       "guest.ErrMalformed",
	"guest.NotFoundError":     "guest.ErrNotWindows",
	"guest.TranslateError":    "guest.ErrNotPresent or guest.ErrNotCanonical",
	"header.errTooWide":       "within header.FormatError",
	"header.errText":          "within header.FormatError",
	"header.errLength":        "within header.FormatError",
	"header.FormatError":      "within dump.ErrFormat",
	"header.StatusError":      "of a function for drivers' authors that snap doesn't call",
	"header.FactError":        "a fault of snap's own: -v",
	"exclude.RangeError":      "exclude.ErrRange",
	"exclude.TooManyError":    "exclude.ErrTooMany",
	"dump.ErrPlan":            "a fault of snap's own: -v",
	"dump.FormatError":        "dump.ErrFormat",
	"store.errNegative":       "a fault of snap's own: -v",
	"store.errGivenUp":        "with the context's error",
	"guardian.errRemoved":     "what was to be removed is gone",
	"catalog.errTooLarge":     "why a file of a catalogue is no manifest, or catalog.ErrChanged",
	"store.ErrWriteOnly":      "a warning: the dump isn't verified",
	"capture.UnmetError":      "capture.ErrUnmet",
	"capture.errNoCopy":       "a warning: pages are compressed while the guest stands still",
	"capture.errCopyFull":     "as capture.errNoCopy",
	"capture.errOverlayPlace": "a fault of snap's own: -v",
	"capture.errRanOver":      "within capture.PauseError",
	"capture.overrunError":    "within capture.PauseError",
	"qemu.errNoFlatView":      "another map is asked for",
	"qemu.RefusedError":       "hv.ErrRefused",
	"vmstate.ErrTruncated":    "vmstate.ErrFormat",
	"vmstate.ErrLimit":        "vmstate.ErrFormat",
	"file.ErrUnknown":         "hv.ErrFormat, with its advice where it is found",
	"input.errXz":             "input.ErrCompression",
	"vmstate.ErrFormat":       "a snapshot that can't be read: -v",
	"libvirt.errClosed":       "a connection that this process closed",
	"libvirt.errTakenOver":    "hv.ErrDisturbed",
	"hv.OverdueError":         "hv.ErrOverdue",
	"libvirt.lostError":       "hv.ErrUnreachable",
	"libvirt.flatError":       "hv.ErrUnreachable or hv.ErrDenied",
	"bounded.TimeoutError":    "a reason within those of who waited",
	"bounded.endedError":      "the context's error",
	"snap.interruption":       "the context's error, with what became of the guest",
	"snap.errSpan":            "within snap.valueError",
	"snap.errSize":            "within snap.valueError",
	"tracefile.errSlow":       "a warning: the trace is lost, not the dump",
	"snap.errOver":            "has its advice where it is made",
	"snap.errNoManifest":      "has its advice where it is made",
}

// TestEveryCauseHasAdvice finds every sentinel and every error type in the source,
// and demands to know what an operator does about it.
func TestEveryCauseHasAdvice(t *testing.T) {
	known := inSituations()
	found := causesInSource(t)
	if len(found) < 50 {
		t.Fatalf("%d causes were found in the source: %q; want all of them", len(found), found)
	}
	for _, name := range found {
		_, told := known[name]
		_, never := neverAlone[name]
		switch {
		case !told && !never:
			t.Errorf("%s can fail a command; what does an operator do about it? A row in causes, and in inSituations here", name)
		case told && never:
			t.Errorf("%s is in both tables", name)
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(known)), slices.Collect(maps.Keys(neverAlone))) {
		if !slices.Contains(found, name) && name != "fs" && !strings.HasPrefix(name, "context.") {
			t.Errorf("%s is in a table here, and not in the source", name)
		}
	}
}

// causesInSource returns the package-level errors and the types of errors of all
// packages that the program is made of, as package.Name.
func causesInSource(t *testing.T) []string {
	t.Helper()
	var found []string
	eachSource(t, func(path string, _ *token.FileSet, f *ast.File) {
		pkg := f.Name.Name
		if pkg == "main" {
			if pkg = filepath.Base(filepath.Dir(path)); pkg != "snap" {
				return
			}
		}
		for _, decl := range f.Decls {
			for _, name := range causesIn(decl) {
				found = append(found, pkg+"."+name)
			}
		}
	})
	slices.Sort(found)
	return slices.Compact(found)
}

// eachSource calls do for every file of the program's own source, tests excepted, with
// its path from the root of the source.
func eachSource(t *testing.T, do func(path string, set *token.FileSet, f *ast.File)) {
	t.Helper()
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		switch {
		case d.IsDir() && notShipped(root, path, name):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			do(filepath.ToSlash(rel), set, f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// notShipped reports whether a folder below root has nothing of the program.
func notShipped(root, path, name string) bool {
	return path == filepath.Join(root, "internal") || name == "testdata" || name == "bin" ||
		path != root && strings.HasPrefix(name, ".") || strings.HasSuffix(name, "test")
}

// causesIn returns the errors that a declaration makes: variables that hold one,
// and receivers of Error() string.
func causesIn(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.Name == "Error" && d.Recv != nil && d.Type.Params.NumFields() == 0 {
			recv := d.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if id, ok := recv.(*ast.Ident); ok {
				names = append(names, id.Name)
			}
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			v, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, value := range v.Values {
				if makesError(value) && i < len(v.Names) {
					names = append(names, v.Names[i].Name)
				}
			}
		}
	}
	return names
}

// makesError reports whether an expression calls errors.New or fmt.Errorf.
func makesError(e ast.Expr) bool {
	c, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	s, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, _ := s.X.(*ast.Ident)
	return pkg != nil && (pkg.Name == "errors" && s.Sel.Name == "New" || pkg.Name == "fmt" && s.Sel.Name == "Errorf")
}

// TestAdvice holds what snap says of each reason against what an operator should do.
func TestAdvice(t *testing.T) {
	for name, all := range inSituations() {
		for _, s := range all {
			code, advice := callFor(t, s.command).classify(fmt.Errorf("do something: %w", s.err))
			if code != s.code {
				t.Errorf("%s by snap %s ends with %d; want %d", name, s.command, code, s.code)
			}
			if advice == "" && !errors.Is(s.err, context.Canceled) {
				t.Errorf("%s by snap %s has no next step", name, s.command)
			}
			for _, word := range listOf(s.next) {
				if !strings.Contains(advice, word) {
					t.Errorf("%s by snap %s: next: %s; want %q in it", name, s.command, advice, word)
				}
			}
			for _, word := range listOf(s.never) {
				if strings.Contains(advice, word) {
					t.Errorf("%s by snap %s: next: %s; %q is wrong", name, s.command, advice, word)
				}
			}
		}
	}
}

func listOf(words string) []string {
	if words == "" {
		return nil
	}
	return strings.Split(words, " | ")
}

// callFor is the call of a command line as a shell would split it.
func callFor(t *testing.T, line string) call {
	t.Helper()
	words := strings.Split(strings.TrimSuffix(throughShell(t, "/bin/sh", line), ">"), ">")
	for i, w := range words {
		words[i] = strings.TrimPrefix(w, "<")
	}
	a := new(app)
	cmd, args, err := newRoot(a, commands()).Find(words)
	if err != nil {
		t.Fatalf("snap %s: %v", line, err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatalf("snap %s: %v", line, err)
	}
	return a.callOf(cmd, cmd.Flags().Args())
}

// flagWord is a flag in advice, snapWord a command of snap's in it, and foreignWord
// one of another program's.
var (
	flagWord    = regexp.MustCompile(`(^|[\s(])--([a-z][a-z0-9-]*)`)
	snapWord    = regexp.MustCompile(`snap ([a-z]+)`)
	foreignWord = regexp.MustCompile(`(virsh|findmnt|systemctl|journalctl) `)
)

// TestAdviceNamesFlagsThatThereAre: no advice of any command for any reason names a
// flag that the command, or the command that it says to use, doesn't have.
func TestAdviceNamesFlagsThatThereAre(t *testing.T) {
	commandsByName := map[string]call{}
	var lines []string
	for _, cmd := range newRoot(new(app), commands()).Commands() {
		if cmd.Hidden {
			continue
		}
		line := cmd.Name()
		if !slices.Contains([]string{"list", "version", "recover"}, line) {
			line += " operand"
		}
		lines = append(lines, line)
		commandsByName[cmd.Name()] = callFor(t, line)
	}
	lines = append(lines, "dump --mode live web01", "check --source peek web01", "dump --force web01", "dump -c qemu:///session 'my guest'")
	checked := 0
	for _, line := range lines {
		c := callFor(t, line)
		for name, all := range inSituations() {
			for _, s := range all {
				if f := onlyWith(s.err); f != "" && !c.has(f) {
					continue // of flags that the command doesn't have
				}
				_, advice := c.classify(s.err)
				for _, part := range regexp.MustCompile(`[;,:] `).Split(advice, -1) {
					where := c
					if m := snapWord.FindStringSubmatch(part); m != nil {
						other, ok := commandsByName[m[1]]
						if !ok && m[1] != "understands" && m[1] != "choose" {
							t.Errorf("%s by snap %s: next: %s; there is no snap %s", name, line, advice, m[1])
						}
						if ok {
							where = other
						}
					}
					if foreignWord.MatchString(part) {
						continue
					}
					for _, f := range flagWord.FindAllStringSubmatch(part, -1) {
						checked++
						if !where.has(f[2]) && f[2] != "help" {
							t.Errorf("%s by snap %s: next: %s; there is no --%s", name, line, advice, f[2])
						}
					}
				}
			}
		}
	}
	if checked < 50 {
		t.Errorf("%d flags were looked at; want the advice to have some", checked)
	}
}

// onlyWith returns a flag that all commands have that can make an error, "" where any
// command can.
func onlyWith(err error) string {
	e, atPlace := errors.AsType[*store.Error](err)
	switch {
	case aboutFlags(err):
		return "max-pause"
	case errors.Is(err, store.ErrRecipient):
		return "encrypt-to"
	case errors.Is(err, store.ErrNoRetention):
		return "s3-retain"
	case errors.Is(err, errPeek):
		return "source"
	case atPlace && store.IsS3(e.Path):
		return "s3-endpoint"
	}
	return ""
}

// aboutFlags reports whether an error is only made by commands with the flags of
// what a dump is to hold.
func aboutFlags(err error) bool {
	var p *capture.PauseError
	for _, of := range []error{exclude.ErrTooMany, exclude.ErrRange, capture.ErrNotExcluded, capture.ErrUnmet, capture.ErrTooManyRuns, capture.ErrPauseTooLong, phys.ErrNotRAM, errOverdue} {
		if errors.Is(err, of) {
			return true
		}
	}
	_, manifest := errors.AsType[*capture.ManifestError](err)
	return manifest || errors.As(err, &p)
}

// TestAdviceIsOneLine: what is to be copied is on one line, whatever the names.
func TestAdviceIsOneLine(t *testing.T) {
	c := callFor(t, "dump web01")
	c.operand, c.connect = "two\nlines\x1b[31m", "qemu:///system?x='; rm -rf /"
	for name, all := range inSituations() {
		for _, s := range all {
			_, advice := c.classify(s.err)
			if strings.ContainsAny(advice, "\n\x1b") {
				t.Errorf("%s: next: %q; want nothing that a terminal acts upon", name, advice)
			}
		}
	}
	words := throughShell(t, "/bin/sh", strings.TrimPrefix(c.snap("check", c.domain()), "snap"))
	if want := "<check><-c><" + c.connect + "><" + c.operand + ">"; words != want {
		t.Errorf("a shell makes %q of the command; want %q", words, want)
	}
}
