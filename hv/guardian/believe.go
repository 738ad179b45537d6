package guardian

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"syscall"
	"unicode"

	"snap/hv"
)

// What is believed of a state file and of a mark. Who may have written them, and what
// each could reach, is in docs/threat-model.md.
const (
	maxText = 4096    // of a path, a name or a URI, in bytes
	maxPID  = 1 << 22 // PID_MAX_LIMIT of the kernel's include/linux/threads.h
)

var (
	uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	bootForm = regexp.MustCompile(`^[0-9a-f-]{1,36}$`) // proc(5), random/boot_id
)

// plain reports whether text is short and can be shown on a terminal.
func plain(text string) bool {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	return len(text) <= maxText && !strings.ContainsFunc(text, odd)
}

// check fails unless p can name a process.
func (p Process) check() error {
	if !plain(p.Host) || p.Host == "" || !bootForm.MatchString(p.Boot) || p.Namespace == 0 || p.PID < 1 || p.PID > maxPID {
		return fmt.Errorf("%w: %.40q is no process of a host", hv.ErrFormat, fmt.Sprintf("%s/%s/%d", p.Host, p.Boot, p.PID))
	}
	return nil
}

// checkReason fails unless why is one of the reasons that there are.
func checkReason(why hv.Reason) error {
	switch why {
	case hv.ForPause, hv.ForJob, hv.ForSnapshot:
		return nil
	}
	return fmt.Errorf("%w: %.40q is no reason to hold a guest", hv.ErrFormat, why)
}

// check fails unless r can be a dump that snap wrote down. Its partial files are
// looked at when they are removed.
func (r *Run) check() error {
	if err := checkID(r.ID); err != nil {
		return err
	}
	if err := r.Snap.check(); err != nil {
		return err
	}
	if r.Guardian != (Process{}) {
		if err := r.Guardian.check(); err != nil {
			return err
		}
	}
	if r.Holding || r.Why != "" {
		if err := checkReason(r.Why); err != nil && r.Why != "" {
			return err
		}
	}
	for _, text := range []string{r.URI, r.Host, r.Trouble} {
		if !plain(text) {
			return fmt.Errorf("%w: %.40q is no text that snap writes", hv.ErrFormat, text)
		}
	}
	for _, name := range append([]string{r.Name}, r.Files...) { // which may hold anything
		if len(name) > maxText {
			return fmt.Errorf("%w: a name of %d bytes", hv.ErrFormat, len(name))
		}
	}
	if _, err := url.Parse(r.URI); err != nil || r.URI == "" || r.Name == "" || !uuidForm.MatchString(r.UUID) || r.Instance < 0 || len(r.Files) > maxFiles {
		return fmt.Errorf("%w: it doesn't describe a dump of a domain", hv.ErrFormat)
	}
	return nil
}

// checkOwn fails unless the open state file f is a file of this user's that nobody
// else may write to.
func checkOwn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 || st.Nlink != 1 {
		return fmt.Errorf("%w: it is no file of this user's own, or others may write to it", hv.ErrFormat)
	}
	return nil
}

// checkMarker fails unless snap can have made the marker.
func checkMarker(m *hv.Marker) error {
	if err := checkID(m.Run); err != nil {
		return err
	}
	if err := checkReason(m.Why); err != nil {
		return err
	}
	return Process{Host: m.Host, Boot: m.Boot, Namespace: m.Namespace, PID: m.PID, Start: m.Start}.check()
}

// ErrUnbelieved is a mark or a state file that no dump can have written.
var ErrUnbelieved = errors.New("no dump wrote it")

// Unbelieved says of a mark that can't be believed how to get rid of it.
func Unbelieved(vm hv.Guardable, err error) error {
	id := vm.Identity()
	return fmt.Errorf("mark on domain %q: %w: %w; if nobody takes a dump of it, remove the mark: snap recover --force, or virsh -c %s metadata %s urn:snap:hold:1 --remove",
		id.Name, ErrUnbelieved, err, id.URI, id.UUID)
}
