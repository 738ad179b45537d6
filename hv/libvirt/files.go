package libvirt

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// A call with descriptors differs from the client's own in three ways (libvirt
// src/rpc/virnetprotocol.x): its type, a count of descriptors between header and
// arguments, and a byte for each descriptor after the message, which carries it
// (virNetSocketSendFD in src/rpc/virnetsocket.c).
const (
	headerBytes     = 28 // the length and the six words of virNetMessageHeader
	headerProgram   = 4  // offsets in it
	headerProcedure = 12
	headerType      = 16
	typeCallWithFDs = 4
	qemuRPCProgram  = 0x20008087 // QEMU_PROGRAM in src/remote/qemu_protocol.x
	procWithFiles   = 7          // QEMU_PROC_DOMAIN_MONITOR_COMMAND_WITH_FILES
)

// filePasser is a connection that gives a file along with the next monitor
// command with files: the RPC client knows that call, but nothing of descriptors.
type filePasser struct {
	*net.UnixConn
	file *os.File // the caller's; nil once it was sent
}

// Write implements net.Conn. The client writes each message at once.
func (p *filePasser) Write(b []byte) (int, error) {
	if p.file == nil || len(b) < headerBytes ||
		binary.BigEndian.Uint32(b[headerProgram:]) != qemuRPCProgram || binary.BigEndian.Uint32(b[headerProcedure:]) != procWithFiles {
		return p.UnixConn.Write(b)
	}
	if uint64(binary.BigEndian.Uint32(b)) != uint64(len(b)) {
		return 0, fmt.Errorf("send a file to the daemon: message of %d bytes in parts", binary.BigEndian.Uint32(b))
	}
	msg := make([]byte, 0, len(b)+4)
	msg = append(msg, b[:headerBytes]...)
	msg = binary.BigEndian.AppendUint32(msg, 1) // descriptors
	msg = append(msg, b[headerBytes:]...)
	binary.BigEndian.PutUint32(msg, uint32(len(msg)))
	binary.BigEndian.PutUint32(msg[headerType:], typeCallWithFDs)
	if _, err := p.UnixConn.Write(msg); err != nil {
		return 0, err
	}
	n, oob, err := p.WriteMsgUnix([]byte{0}, unix.UnixRights(int(p.file.Fd())), nil)
	if err == nil && (n != 1 || oob == 0) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return 0, fmt.Errorf("send a file to the daemon: %w", err)
	}
	p.file = nil
	return len(b), nil
}
