package libvirt

import (
	"errors"
	"fmt"
	"strings"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// classes says what the daemon's error codes mean to callers
// (include/libvirt/virterror.h).
var classes = map[rpc.ErrorNumber]error{
	rpc.ErrNoDomain:             hv.ErrNoDomain,
	rpc.ErrInvalidDomain:        hv.ErrNoDomain,
	rpc.ErrAuthFailed:           hv.ErrDenied,
	rpc.ErrAuthCancelled:        hv.ErrDenied,
	rpc.ErrAuthUnavailable:      hv.ErrDenied,
	rpc.ErrAccessDenied:         hv.ErrDenied,
	rpc.ErrOperationDenied:      hv.ErrDenied,
	rpc.ErrNoSupport:            hv.ErrUnsupported,
	rpc.ErrArgumentUnsupported:  hv.ErrUnsupported,
	rpc.ErrOperationUnsupported: hv.ErrUnsupported,
	rpc.ErrConfigUnsupported:    hv.ErrUnsupported,
	rpc.ErrOperationTimeout:     hv.ErrBusy,
	rpc.ErrResourceBusy:         hv.ErrBusy,
}

// noPolkit is in the daemon's internal error where it can't reach polkit to
// ask whether a user may connect (libvirt src/util/virgdbus.c): then only root
// may.
const noPolkit = "Unable to get system bus connection"

// classify gives the daemon's error its class. The daemon's own error stays
// reachable with errors.As.
func classify(err error) error {
	if errors.Is(err, rpc.ErrUnsupported) {
		return fmt.Errorf("%w: the daemon doesn't know this call", hv.ErrUnsupported)
	}
	var e rpc.Error
	if !errors.As(err, &e) {
		return err
	}
	class, ok := classes[rpc.ErrorNumber(e.Code)]
	if strings.Contains(e.Message, noPolkit) {
		class, ok = hv.ErrDenied, true
	}
	if !ok {
		class = hv.ErrRefused
	}
	return fmt.Errorf("%w: %w", class, err)
}

// isAnswer reports whether err is what the daemon answered.
func isAnswer(err error) bool {
	_, is := errors.AsType[rpc.Error](err)
	return is
}

// hasCode reports whether the daemon answered with code.
func hasCode(err error, code rpc.ErrorNumber) bool {
	var e rpc.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}
