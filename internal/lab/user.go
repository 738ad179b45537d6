package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// SessionUser is the ordinary user whose qemu:///session root uses.
const SessionUser = "snaplab"

// User is another user than this process's, to run programs as.
type User struct {
	Name       string
	UID, GID   int
	Home       string
	RuntimeDir string // XDG_RUNTIME_DIR
}

// sessionUser returns SessionUser, made if it doesn't exist, with a runtime
// folder as systemd-logind would make it.
func sessionUser() (*User, error) {
	u, err := user.Lookup(SessionUser)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		if _, err := output(context.Background(), exec.Command("useradd", "--create-home", "--shell", "/usr/sbin/nologin", SessionUser)); err != nil {
			return nil, err
		}
		u, err = user.Lookup(SessionUser)
	}
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	out := &User{Name: u.Username, UID: uid, GID: gid, Home: u.HomeDir, RuntimeDir: filepath.Join("/run/user", u.Uid)}
	if err := os.MkdirAll(filepath.Dir(out.RuntimeDir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(out.RuntimeDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return out, out.own(out.RuntimeDir)
}

// own gives path to u. A nil u is this process's own user, who has it.
func (u *User) own(path string) error {
	if u == nil {
		return nil
	}
	return os.Chown(path, u.UID, u.GID)
}

// become makes cmd run as u, with no privilege and nothing of this process's
// environment.
func (u *User) become(cmd *exec.Cmd) {
	if u == nil {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}}
	cmd.Dir = u.Home
	cmd.Env = []string{
		"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name, "LANG=C.UTF-8",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"XDG_RUNTIME_DIR=" + u.RuntimeDir,
	}
}
