package guardian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// Bounds on what is believed of a state file.
const (
	maxState = 64 << 10
	maxFiles = 16
	maxRuns  = 4096
	// lockTries bounds how often a lock's file may vanish between its opening
	// and its locking.
	lockTries = 10
)

const (
	stateSuffix = ".json"
	lockSuffix  = ".lock"
	// partialInfix begins the suffix of the files that may be removed; the run's
	// name follows.
	partialInfix = ".partial-"
)

// ErrLocked is the failure of a dump while another of its domain is running.
var ErrLocked = errors.New("another dump of it is running")

// Run is one dump and what must be undone if its process dies.
type Run struct {
	ID       string    `json:"run"` // in the marker and in the names of partial files
	URI      string    `json:"uri"`
	Name     string    `json:"domain"`
	UUID     string    `json:"uuid"`
	Instance int       `json:"instance"` // the hypervisor's id of the running domain
	Host     string    `json:"domain_host"`
	Snap     Process   `json:"snap"`
	Guardian Process   `json:"guardian,omitzero"`
	Began    time.Time `json:"began"`
	Holding  bool      `json:"holding"`           // the guest is, or is about to be, held
	Why      hv.Reason `json:"why,omitempty"`     // for what
	Files    []string  `json:"files,omitempty"`   // partial ones, absolute, or what Remove takes
	Trouble  string    `json:"trouble,omitempty"` // why undoing it failed so far
	Aside    bool      `json:"aside,omitempty"`   // only partial files are left of it (setAside)

	// Remove removes those of Files that aren't of this host; nil where none can be.
	Remove Remove `json:"-"`
}

// Remove removes what a run has begun at another host, such as an upload, by how the run
// calls it: a URL. id is the run's, by which Remove knows that it is of that run; what it
// is given may be anybody's. The error is fs.ErrNotExist where there is no such thing.
type Remove func(ctx context.Context, url, id string) error

// Dir returns the folder of locks and state files: /run/snap for root, a folder
// of the user's own elsewhere. It is made if need be, and refused if others may
// write to it.
func Dir() (string, error) {
	dir := "/run/snap"
	if uid := os.Geteuid(); uid != 0 {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("snap-%d", uid))
		if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
			dir = filepath.Join(run, "snap")
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", &FolderError{"make the folder for locks", dir, err}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", &FolderError{"look for locks", dir, err}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return "", &FolderError{"keep locks", dir, fmt.Errorf("%w: it isn't a folder that only this user may write to", fs.ErrPermission)}
	}
	return dir, nil
}

// key names a domain for lock and state file: by its UUID and by the daemon that
// has it, however that daemon is reached.
func key(id hv.Identity) string {
	path := id.URI
	if u, err := url.Parse(id.URI); err == nil {
		path = strings.TrimSuffix(u.Path, "/")
	}
	sum := sha256.Sum256([]byte(id.Host + "\x00" + path))
	return id.UUID + "-" + hex.EncodeToString(sum[:4])
}

func (r *Run) key() string { return key(hv.Identity{UUID: r.UUID, Host: r.Host, URI: r.URI}) }

// lock takes the domain's lock. The kernel lets go of it when the last process
// that has the file open is gone: snap, and the guardian that undoes its work.
//
// gofrs/flock can't do that: it never gives out the descriptor, which the guardian
// has to inherit, and its Unlock would take the lock from the guardian as well.
func (r *Run) lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, r.key()+lockSuffix)
	var f *os.File
	var err error
	for range lockTries {
		if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
			return nil, &FolderError{fmt.Sprintf("lock domain %q", r.Name), dir, err}
		}
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			break
		}
		if named(f, path) {
			return f, nil
		}
		_ = f.Close() // whoever had it before removed it meanwhile
		err = unix.EWOULDBLOCK
	}
	_ = f.Close() // somebody else has it
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	who := "a process that doesn't say which"
	if other, err := load(r.path(dir)); err == nil {
		who = fmt.Sprintf("process %d since %s", other.Snap.PID, other.Began.Format(time.RFC3339))
		if !other.Snap.Alive() {
			who = fmt.Sprintf("process %d was killed, and its guardian, process %d, is undoing it", other.Snap.PID, other.Guardian.PID)
		}
	}
	return nil, fmt.Errorf("lock domain %q: %w: %s", r.Name, ErrLocked, who)
}

// named reports whether the open file f is what path names.
func named(f *os.File, path string) bool {
	a, aerr := f.Stat()
	b, berr := os.Lstat(path)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// save writes the state file, whole or not at all.
func (r *Run) save(dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".state-")
	if err != nil {
		return &FolderError{"write the state of the dump", dir, err}
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), r.path(dir))
	}
	if err != nil {
		return errors.Join(&FolderError{"write the state of the dump", dir, err}, os.Remove(f.Name()))
	}
	return nil
}

// forget removes the state file.
func (r *Run) forget(dir string) error {
	err := os.Remove(r.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// finish removes the state file and the lock, which the caller still holds.
func (r *Run) finish(dir string) error {
	err := r.forget(dir)
	if e := os.Remove(filepath.Join(dir, r.key()+lockSuffix)); !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// load reads a state file.
func load(path string) (*Run, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: it is a symbolic link: %w", hv.ErrFormat, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := read(f)
	if err == nil && filepath.Base(r.path("")) != filepath.Base(path) {
		err = fmt.Errorf("%w: it is not of the domain that it is named after", hv.ErrFormat)
	}
	if errors.Is(err, hv.ErrFormat) {
		err = fmt.Errorf("%w: %w", ErrUnbelieved, err)
	}
	if err != nil {
		return nil, fmt.Errorf("state file %q: %w", path, err)
	}
	return r, nil
}

// read reads a state file and checks all that is in it.
func read(f *os.File) (*Run, error) {
	if err := checkOwn(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxState {
		return nil, fmt.Errorf("%w: more than %d bytes", hv.ErrFormat, maxState)
	}
	r := new(Run)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%w: %w", hv.ErrFormat, err)
	}
	return r, r.check()
}

// RemoveDamaged removes the state files in dir of which nothing can be believed, and
// returns their paths. Those of dumps that run are none.
func RemoveDamaged(dir string) (gone []string, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+stateSuffix))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range paths {
		if _, err := load(p); !errors.Is(err, hv.ErrFormat) {
			continue
		}
		if err := unix.Unlink(p); err != nil {
			errs = append(errs, fmt.Errorf("remove %q: %w", p, err))
			continue
		}
		gone = append(gone, p)
	}
	return gone, errors.Join(errs...)
}

// Runs returns the dumps whose state files are in dir, running or not, and what
// was wrong with the files that could not be read.
func Runs(dir string) ([]*Run, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+stateSuffix))
	if err != nil {
		return nil, err
	}
	if len(paths) > maxRuns {
		return nil, &FolderError{"read state files", dir, fmt.Errorf("there are %d; want at most %d", len(paths), maxRuns)}
	}
	var runs []*Run
	var errs []error
	for _, p := range paths {
		r, err := load(p)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it ended meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			runs = append(runs, r)
		}
	}
	return runs, errors.Join(errs...)
}

func (r *Run) path(dir string) string {
	name := r.key()
	if r.Aside {
		name += "-" + r.ID
	}
	return filepath.Join(dir, name+stateSuffix)
}

// claim locks the domain of a dump whose process is dead; whether it is doesn't matter
// where force is set. A guardian that is at work is waited for.
func (r *Run) claim(ctx context.Context, dir string, force bool) (lock *os.File, running bool, err error) {
	for deadline := time.Now().Add(lockWait); ; {
		if !force && r.Snap.Alive() {
			return nil, true, nil
		}
		lock, err = r.lock(dir)
		if !errors.Is(err, ErrLocked) {
			return lock, false, err
		}
		if now, lerr := load(r.path(dir)); lerr == nil && now.ID != r.ID {
			return nil, true, nil // a later dump of the same domain
		}
		if r.Aside {
			return nil, true, nil // so is this
		}
		if time.Now().After(deadline) {
			return nil, false, fmt.Errorf("%w: %w", hv.ErrStillPaused, err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, false, errors.Join(err, ctx.Err())
		}
	}
}
