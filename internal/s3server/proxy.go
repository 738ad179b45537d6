package s3server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Fault is what becomes of a request on its way to the server: nothing if it returns
// false.
type Fault func(w http.ResponseWriter, r *http.Request) (done bool)

// Proxy stands before a server, and lets its requests go wrong.
type Proxy struct {
	Endpoint string // its URL

	to    *httputil.ReverseProxy
	mu    sync.Mutex
	fault Fault
	seen  atomic.Int64
}

// Proxy starts a proxy before the server. It ends with the test.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{to: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host // which is signed
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	front := httptest.NewUnstartedServer(p)
	front.Config.ErrorLog = nil
	front.Start()
	t.Cleanup(front.Close)
	t.Cleanup(front.CloseClientConnections)
	p.Endpoint = front.URL
	return p
}

// Fail has requests go wrong from now on; nil has none.
func (p *Proxy) Fail(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Requests returns how many there were.
func (p *Proxy) Requests() int64 { return p.seen.Load() }

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.seen.Add(1)
	p.mu.Lock()
	fault := p.fault
	p.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	p.to.ServeHTTP(w, r)
}

// LoseAnswers has the first answer to what makes an object known get lost.
func (p *Proxy) LoseAnswers() Fault {
	var lost atomic.Bool
	return func(_ http.ResponseWriter, r *http.Request) bool {
		whole := r.Method == http.MethodPut && !IsPart(r)
		if !whole && !IsComplete(r) || lost.Swap(true) {
			return false
		}
		p.to.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
}

// IsPart reports whether a request brings a part of an upload.
func IsPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

// IsComplete reports whether a request completes an upload.
func IsComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

// Cut ends the connection after so many bytes of the request's body.
func Cut(r *http.Request, after int64) bool {
	_, _ = io.CopyN(io.Discard, r.Body, after)
	panic(http.ErrAbortHandler)
}

// Answer answers with an error as S3 does.
func Answer(w http.ResponseWriter, r *http.Request, status int, code string) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>as the test wants it</Message></Error>")
	return true
}
