package libvirt

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// forward accepts connections and carries each to the peer. greet runs first.
func (p *peer) forward(l net.Listener, greet func(net.Conn) error) {
	p.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if greet == nil || greet(conn) == nil {
					p.carry(conn)
				}
				_ = conn.Close()
			}()
		}
	}()
}

// carry copies both ways between conn and a new connection to the peer.
func (p *peer) carry(conn io.ReadWriteCloser) {
	inner, err := net.Dial("unix", p.socket)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(inner, conn)
		_ = inner.Close()
	}()
	_, _ = io.Copy(conn, inner)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// useTransport looks a domain up by uri, then has the daemon hang.
func useTransport(t *testing.T, p *peer, uri string) {
	t.Helper()
	c, err := Connect(t.Context(), uri)
	if err != nil {
		t.Fatalf("Connect(%q) failed: %v", uri, err)
	}
	defer c.Close()
	if c.target.local {
		t.Errorf("%q counts as this host", uri)
	}
	if _, err := c.LookupDomain(t.Context(), "guest"); err != nil {
		t.Errorf("Lookup failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.on(procLookupName, func(int, []byte) *answer { cancel(); return &answer{hang: true} })
	err = promptly(t, "Lookup", func() error {
		_, err := c.LookupDomain(ctx, "guest")
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Lookup with a daemon that hangs = %v; want %v", err, context.Canceled)
	}
}

func TestTCP(t *testing.T) {
	p := newPeer(t)
	l := listen(t)
	p.forward(l, nil)
	useTransport(t, p, "qemu+tcp://"+l.Addr().String()+"/system")
}

// TestTLS has the daemon's greeting too: one byte that says that it likes our
// certificate (virNetTLSContextCheckCertificate in libvirt's src/rpc).
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert := makeCertificates(t, dir)
	for _, verdict := range []byte{1, 0} {
		p := newPeer(t)
		l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
		p.forward(l, func(conn net.Conn) error {
			_, err := conn.Write([]byte{verdict})
			return err
		})
		uri := "qemu+tls://" + l.Addr().String() + "/system?pkipath=" + dir
		if verdict == 1 {
			useTransport(t, p, uri)
		} else if _, err := Connect(t.Context(), uri); err == nil {
			t.Error("Connect to a daemon that refuses our certificate succeeded")
		}
	}
}

// makeCertificates writes an authority and a client certificate where libvirt
// looks for them, and returns the server's.
func makeCertificates(t *testing.T, dir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	for name, b := range map[string][]byte{"cacert.pem": certPEM, "clientcert.pem": certPEM, "clientkey.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestSSH: the socket on the other host is reached through an SSH channel, the
// modular daemon's where it is there, else the other.
func TestSSH(t *testing.T) {
	p := newPeer(t)
	asked := make(chan string, 16)
	l := listen(t)
	p.serveSSH(l, asked)
	useTransport(t, p, fmt.Sprintf("qemu+ssh://op:secret@%s/system?no_verify=1", l.Addr()))
	for _, want := range systemSockets {
		if got := <-asked; got != want {
			t.Errorf("asked for socket %q; want %q", got, want)
		}
	}
}

// serveSSH is a host where only libvirtd's socket is there.
func (p *peer) serveSSH(l net.Listener, asked chan<- string) {
	p.t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	config := &ssh.ServerConfig{PasswordCallback: func(c ssh.ConnMetadata, pw []byte) (*ssh.Permissions, error) {
		if c.User() != "op" || string(pw) != "secret" {
			return nil, errBroken
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	p.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go p.serveSSHConn(raw, config, asked)
		}
	}()
}

func (p *peer) serveSSHConn(raw net.Conn, config *ssh.ServerConfig, asked chan<- string) {
	conn, channels, requests, err := ssh.NewServerConn(raw, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		// The extension of OpenSSH's PROTOCOL, 2.4.
		var want struct {
			Socket string
			Zero   string
			None   uint32
		}
		if ch.ChannelType() != "direct-streamlocal@openssh.com" || ssh.Unmarshal(ch.ExtraData(), &want) != nil {
			_ = ch.Reject(ssh.UnknownChannelType, "no")
			continue
		}
		asked <- want.Socket
		if want.Socket != "/run/libvirt/libvirt-sock" {
			_ = ch.Reject(ssh.ConnectionFailed, "no such socket")
			continue
		}
		c, rs, err := ch.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(rs)
		go p.carry(c)
	}
}
