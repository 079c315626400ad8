package etcd

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// env renders the environment file of a member. ETCD_INITIAL_* only count when
// the data directory is empty.
func (s Spec) env(name, uid string) []byte {
	m := s.Members[name]
	listen := m.Address
	if _, err := netip.ParseAddr(listen); err != nil {
		// etcd listens on addresses only; a name says nothing about which.
		listen = "0.0.0.0"
	}
	url := func(address string, port int) string {
		return s.scheme() + "://" + net.JoinHostPort(address, strconv.Itoa(port))
	}
	var initial []string
	for _, n := range s.Names() {
		initial = append(initial, n+"="+s.PeerURL(n))
	}
	clients := []string{url(listen, s.ClientPort)}
	if listen != "0.0.0.0" {
		clients = append(clients, url("127.0.0.1", s.ClientPort))
	}
	var b strings.Builder
	b.WriteString("# Written by the pgha provider; changes are overwritten.\n")
	set := func(key, value string) { fmt.Fprintf(&b, "ETCD_%s=%q\n", key, value) }
	set("NAME", name)
	set("DATA_DIR", s.DataDir())
	set("LISTEN_PEER_URLS", url(listen, s.PeerPort))
	set("LISTEN_CLIENT_URLS", strings.Join(clients, ","))
	set("INITIAL_ADVERTISE_PEER_URLS", s.PeerURL(name))
	set("ADVERTISE_CLIENT_URLS", s.ClientURL(name))
	set("INITIAL_CLUSTER", strings.Join(initial, ","))
	set("INITIAL_CLUSTER_STATE", "new")
	set("INITIAL_CLUSTER_TOKEN", s.Name+"-"+uid)
	set("HEARTBEAT_INTERVAL", strconv.FormatInt(s.Heartbeat.Milliseconds(), 10))
	set("ELECTION_TIMEOUT", strconv.FormatInt(s.Election.Milliseconds(), 10))
	set("QUOTA_BACKEND_BYTES", strconv.FormatInt(s.QuotaBytes, 10))
	set("AUTO_COMPACTION_MODE", "periodic")
	set("AUTO_COMPACTION_RETENTION", s.CompactionRetention.String())
	if s.SnapshotCount > 0 {
		set("SNAPSHOT_COUNT", strconv.FormatInt(s.SnapshotCount, 10))
	}
	// The default from 3.5 on; without it a member that comes back disturbs
	// a leader that is well.
	set("PRE_VOTE", "true")
	set("EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true")
	if s.TLS {
		dir := Dir(s.Name)
		set("CERT_FILE", dir+"/server.crt")
		set("KEY_FILE", dir+"/server.key")
		set("TRUSTED_CA_FILE", dir+"/ca.crt")
		set("CLIENT_CERT_AUTH", "true")
		set("PEER_CERT_FILE", dir+"/peer.crt")
		set("PEER_KEY_FILE", dir+"/peer.key")
		set("PEER_TRUSTED_CA_FILE", dir+"/ca.crt")
		set("PEER_CLIENT_CERT_AUTH", "true")
		set("PEER_CERT_ALLOWED_CN", peerSubject(s.Name))
	}
	return []byte(b.String())
}

// dropIn renders what we add to Debian's unit.
func (s Spec) dropIn() []byte {
	return []byte(`# Written by the pgha provider; changes are overwritten.
[Service]
EnvironmentFile=
EnvironmentFile=` + s.envPath() + `
# A member is ready only once a quorum is: after a power cut the first host to
# come back must wait for the second, however long that takes.
TimeoutStartSec=infinity
Restart=always
RestartSec=2s
OOMScoreAdjust=-900
`)
}

// files are the files of a member that hold no secret.
func (s Spec) files(name, uid string) []remote.File {
	return []remote.File{
		{Path: s.envPath(), Content: s.env(name, uid), Group: account, Mode: "0640"},
		{Path: dropInPath, Content: s.dropIn()},
	}
}
