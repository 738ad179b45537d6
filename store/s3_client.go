package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Bounds on a server that doesn't answer.
const (
	dialFor  = 20 * time.Second
	stallFor = 2 * time.Minute // without one byte in either direction
)

// amazon is the endpoint where none is given; the client finds the region's by it.
const amazon = "https://s3.amazonaws.com"

// ErrEndpoint is an endpoint that is no URL of a server.
var ErrEndpoint = errors.New("not the URL of an S3 server, like https://s3.example.com")

// s3Client returns a client and the URL of its endpoint.
func s3Client(o S3) (*minio.Core, string, error) {
	u, err := endpointOf(o)
	if err != nil {
		return nil, "", err
	}
	aws := s3utils.IsAmazonEndpoint(*u)
	region := cmp.Or(o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))
	lookup := minio.BucketLookupAuto
	if !aws {
		// Servers that aren't AWS's are seldom found by names of buckets, and few let
		// everybody ask where a bucket is.
		lookup, region = minio.BucketLookupPath, cmp.Or(region, "us-east-1")
	}
	creds, err := s3Credentials(o, aws)
	if err != nil {
		return nil, "", err
	}
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return nil, "", fmt.Errorf("read the certificates that are trusted: %w", err)
	}
	transport.DialContext = dial
	transport.ResponseHeaderTimeout = stallFor
	client, err := minio.NewCore(u.Host, &minio.Options{
		Creds: creds, Secure: u.Scheme == "https", Region: region, BucketLookup: lookup, Transport: transport,
	})
	if err != nil {
		return nil, "", fmt.Errorf("%w: %q: %w", ErrEndpoint, u.String(), err)
	}
	return client, u.String(), nil
}

// endpointOf returns the URL of the server. One of http is spoken to in clear, and only
// where somebody wrote it.
func endpointOf(o S3) (*url.URL, error) {
	text := cmp.Or(o.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), amazon)
	u, err := url.Parse(text)
	if err != nil || u.User != nil { // the text may hold a password
		return nil, ErrEndpoint
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is %w", text, ErrEndpoint)
	}
	u.Path = ""
	return u, nil
}

// dial connects, and has the connection fail when nothing moves on it.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialFor}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &moving{c}, nil
}

// moving is a connection on which something must move: each piece that does gives both
// directions their time anew, since an answer is waited for from when a request begins.
type moving struct{ net.Conn }

// most is what one write to the network may be: what moves of a large one isn't seen.
const most = 256 << 10

// Read implements io.Reader.
func (m *moving) Read(p []byte) (int, error) {
	if err := m.SetDeadline(time.Now().Add(stallFor)); err != nil {
		return 0, err
	}
	return m.Conn.Read(p)
}

// Write implements io.Writer.
func (m *moving) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if err = m.SetDeadline(time.Now().Add(stallFor)); err != nil {
			break
		}
		var w int
		w, err = m.Conn.Write(p[n:min(n+most, len(p))])
		n += w
	}
	return n, err
}
