package patroni

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// API is the REST API of one node (Patroni documentation, "Patroni REST API"),
// reached from the node's own host through SSH.
type API struct {
	host     host.Host
	port     int
	user     string
	password string
	other    string
	client   *http.Client
}

// APIConfig says how to talk to a node.
type APIConfig struct {
	Port int
	// Authority is the certificate in PEM that the node's must come from.
	// Empty means that the API is plain HTTP.
	Authority []byte
	// Certificate is the very one that the node must show; it counts instead of
	// Authority.
	Certificate *x509.Certificate
	// User and Password are for requests that change something.
	User, Password string
	// Other is tried when Password is refused: while passwords are being
	// changed, some nodes have the new one and some still the old one.
	Other string
}

// NewAPI returns the API of the node on a host. Nothing is connected yet.
func NewAPI(h host.Host, cfg APIConfig) (*API, error) {
	a := &API{host: h, port: cfg.Port, user: cfg.User, password: cfg.Password, other: cfg.Other}
	transport := &http.Transport{
		// Patroni speaks HTTP/1.0 and closes after each answer.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return h.Dial(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.Port)))
		},
	}
	if len(cfg.Authority) > 0 {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(cfg.Authority) {
			return nil, fmt.Errorf("host %s: the cluster's authority has no certificate that can be read", h.Name())
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	}
	if want := cfg.Certificate; want != nil {
		transport.TLSClientConfig = &tls.Config{
			MinVersion: tls.VersionTLS12,
			// Names and authorities say nothing here: it is this one certificate.
			InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it
			VerifyConnection: func(s tls.ConnectionState) error {
				if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(want) {
					return errors.New("the certificate is not the one that restapi.certfile names")
				}
				return nil
			},
		}
	}
	a.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return a, nil
}

// Statuses that callers decide by.
var (
	// ErrConflict: somebody else changed the configuration in between (409).
	ErrConflict = errors.New("somebody else changed it at the same time")
	// ErrUnknown: the request may or may not have been carried out; look
	// before doing anything else.
	ErrUnknown = errors.New("the answer was lost, it is not known whether the request was carried out")
)

// StatusError is an answer that says no.
type StatusError struct {
	Host   string
	Method string
	Path   string
	Code   int
	Text   string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("Patroni on host %s answered %s %s with %d: %s", e.Host, e.Method, e.Path, e.Code, e.Text)
}

func (a *API) do(ctx context.Context, timeout time.Duration, method, path string, body, answer any) error {
	err := a.send(ctx, timeout, method, path, a.password, body, answer)
	if a.other != "" && unauthorized(err) {
		// It was refused before anything was done.
		return a.send(ctx, timeout, method, path, a.other, body, answer)
	}
	return err
}

// unauthorized reports whether an answer says that the password is wrong.
func unauthorized(err error) bool {
	var e *StatusError
	return errors.As(err, &e) && e.Code == http.StatusUnauthorized
}

func (a *API) send(ctx context.Context, timeout time.Duration, method, path, password string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	scheme := "http"
	if t, ok := a.client.Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+"://localhost:"+strconv.Itoa(a.port)+path, payload)
	if err != nil {
		return err
	}
	safe := method == http.MethodGet
	if !safe {
		req.SetBasicAuth(a.user, password)
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.client.Do(req)
	if err != nil {
		var e *host.Error
		if errors.As(err, &e) {
			return e // the connection was not even made
		}
		if safe || isTLS(err) {
			return fmt.Errorf("Patroni on host %s does not answer %s %s: %w", a.host.Name(), method, path, err)
		}
		return fmt.Errorf("Patroni on host %s, %s %s: %w (%w)", a.host.Name(), method, path, ErrUnknown, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		if safe {
			return fmt.Errorf("Patroni on host %s, %s %s: %w", a.host.Name(), method, path, err)
		}
		return fmt.Errorf("Patroni on host %s, %s %s: %w (%w)", a.host.Name(), method, path, ErrUnknown, err)
	}
	if res.StatusCode == http.StatusConflict {
		return fmt.Errorf("Patroni on host %s, %s %s: %w", a.host.Name(), method, path, ErrConflict)
	}
	if answer != nil && (res.StatusCode == http.StatusOK || res.StatusCode == http.StatusServiceUnavailable && safe) {
		if err := json.Unmarshal(text, answer); err != nil {
			return fmt.Errorf("Patroni on host %s, %s %s: the answer is not what was expected: %w", a.host.Name(), method, path, err)
		}
		return nil
	}
	if res.StatusCode >= 300 {
		return &StatusError{Host: a.host.Name(), Method: method, Path: path, Code: res.StatusCode, Text: plain(text)}
	}
	return nil
}

func isTLS(err error) bool {
	var v *tls.CertificateVerificationError
	var r tls.RecordHeaderError
	return errors.As(err, &v) || errors.As(err, &r)
}

// plain shortens an error page to what a person wants to read.
func plain(text []byte) string {
	s := strings.TrimSpace(string(text))
	if i := strings.Index(s, "<p>Message: "); i >= 0 {
		s = s[i+len("<p>Message: "):]
		if j := strings.Index(s, "</p>"); j >= 0 {
			s = s[:j]
		}
	}
	if len(s) > 500 {
		s = s[:500] + "..."
	}
	return s
}

// quick bounds a request that Patroni answers at once.
const quick = 10 * time.Second

// NodeStatus is GET /patroni. Fields that a version does not send are zero.
type NodeStatus struct {
	State            string         `json:"state"`
	Role             string         `json:"role"`
	ServerVersion    int            `json:"server_version"`
	Timeline         *int64         `json:"timeline"`
	ReplicationState string         `json:"replication_state"`
	PendingRestart   bool           `json:"pending_restart"`
	PendingReason    map[string]any `json:"pending_restart_reason"`
	Pause            bool           `json:"pause"`
	SystemID         string         `json:"database_system_identifier"`
	ClusterUnlocked  bool           `json:"cluster_unlocked"`
	Tags             map[string]any `json:"tags"`
	WatchdogFailed   bool           `json:"watchdog_failed"`
	PostmasterStart  string         `json:"postmaster_start_time"`
	DCSLastSeen      int64          `json:"dcs_last_seen"`
	XLog             struct {
		Location int64 `json:"location"`
		Received int64 `json:"received_location"`
		Replayed int64 `json:"replayed_location"`
	} `json:"xlog"`
	Patroni struct {
		Version string `json:"version"`
		Scope   string `json:"scope"`
		Name    string `json:"name"`
	} `json:"patroni"`
}

// Primary reports whether the node is a running primary. Patroni 3 says
// "master".
func (s NodeStatus) Primary() bool {
	return s.State == "running" && (s.Role == "primary" || s.Role == "master")
}

// Leads reports whether the node holds the leader's role, in its own eyes.
func (s NodeStatus) Leads() bool { return s.Primary() || s.Role == "standby_leader" }

// Status asks for GET /patroni.
func (a *API) Status(ctx context.Context) (NodeStatus, error) {
	var s NodeStatus
	err := a.do(ctx, quick, http.MethodGet, "/patroni", nil, &s)
	return s, err
}

// ClusterMember is a member as GET /cluster shows it.
type ClusterMember struct {
	Name           string          `json:"name"`
	Role           string          `json:"role"` // leader, standby_leader, sync_standby, quorum_standby, replica
	State          string          `json:"state"`
	APIURL         string          `json:"api_url"`
	Host           string          `json:"host"`
	Port           int             `json:"port"`
	Timeline       int64           `json:"timeline"`
	PendingRestart bool            `json:"pending_restart"`
	Tags           map[string]any  `json:"tags"`
	Lag            json.RawMessage `json:"lag"` // bytes, or "unknown"
}

// Serves reports whether a member that leads does its work: the leader of a standby cluster
// shows that it streams, as a replica does.
func (m ClusterMember) Serves() bool {
	return m.State == "running" || m.Role == "standby_leader" && m.State == "streaming"
}

// Leader reports whether the member holds the leader's lock.
func (m ClusterMember) Leader() bool { return m.Role == "leader" || m.Role == "standby_leader" }

// LagBytes is how far the member is behind, and false if that is not known.
func (m ClusterMember) LagBytes() (int64, bool) {
	n, err := strconv.ParseInt(string(m.Lag), 10, 64)
	return n, err == nil
}

// Healthy reports whether a member runs, and follows if it is a replica.
// Patroni before 3.0.4 shows replicas as running.
func (m ClusterMember) Healthy() bool { return m.State == "running" || m.State == "streaming" }

// Synchronous reports whether it is a synchronous standby, or counted for the quorum.
func (m ClusterMember) Synchronous() bool {
	return m.Role == "sync_standby" || m.Role == "quorum_standby"
}

// ClusterView is GET /cluster.
type ClusterView struct {
	Scope   string          `json:"scope"`
	Members []ClusterMember `json:"members"`
	Pause   bool            `json:"pause"`
}

// Leader returns the member that holds the leader's lock.
func (v ClusterView) Leader() (ClusterMember, bool) {
	for _, m := range v.Members {
		if m.Leader() {
			return m, true
		}
	}
	return ClusterMember{}, false
}

// Member finds a member by name.
func (v ClusterView) Member(name string) (ClusterMember, bool) {
	for _, m := range v.Members {
		if m.Name == name {
			return m, true
		}
	}
	return ClusterMember{}, false
}

// Cluster asks for GET /cluster.
func (a *API) Cluster(ctx context.Context) (ClusterView, error) {
	var v ClusterView
	err := a.do(ctx, quick, http.MethodGet, "/cluster", nil, &v)
	return v, err
}

// Config asks for GET /config.
func (a *API) Config(ctx context.Context) (Document, error) {
	var raw json.RawMessage
	if err := a.do(ctx, quick, http.MethodGet, "/config", nil, &raw); err != nil {
		return nil, err
	}
	return ParseDocument(raw)
}

// PatchConfig sends one PATCH /config. ErrConflict and ErrUnknown mean: read
// it again and decide anew.
func (a *API) PatchConfig(ctx context.Context, patch Document) error {
	err := a.do(ctx, quick, http.MethodPatch, "/config", patch, nil)
	return err
}

// Reload makes the node read its file again; it answers before it has.
func (a *API) Reload(ctx context.Context) error {
	err := a.do(ctx, quick, http.MethodPost, "/reload", map[string]any{}, nil)
	return err
}

// Restart asks for a restart of PostgreSQL, and returns when it is over. It is never
// sent twice.
func (a *API) Restart(ctx context.Context) error {
	return a.do(ctx, restartPatience, http.MethodPost, "/restart", map[string]any{}, nil)
}

// Switchover asks for the leader's role to move to a candidate. Patroni answers
// when the role has moved, and may have moved it to another member: look at the
// cluster afterwards, whatever the answer. It is never sent twice.
func (a *API) Switchover(ctx context.Context, leader, candidate string, loopWait time.Duration) error {
	body := map[string]any{"leader": leader, "candidate": candidate}
	err := a.do(ctx, 2*max(10*time.Second, loopWait)+15*time.Second, http.MethodPost, "/switchover", body, nil)
	return err
}
