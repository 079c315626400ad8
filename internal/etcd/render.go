package etcd

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// initial renders the environment file that only counts when a member starts
// without data. It is of no account afterwards, so that members that come and go
// later do not concern those that are there. Others are the peer URLs of the
// cluster that a new member joins; without them the cluster is new itself.
func (s Spec) initial(name, uid string, others []string) []byte {
	var members []string
	state := "new"
	for _, n := range s.Names() {
		if len(others) == 0 || n == name {
			members = append(members, n+"="+s.PeerURL(n))
		}
	}
	for i, peer := range others {
		// etcd compares the URLs only; the names must differ, no more.
		members = append(members, fmt.Sprintf("other%d=%s", i+1, peer))
		state = "existing"
	}
	var b strings.Builder
	b.WriteString("# Written by the pgha provider for the first start; of no account since.\n")
	fmt.Fprintf(&b, "ETCD_INITIAL_CLUSTER=%q\nETCD_INITIAL_CLUSTER_STATE=%q\nETCD_INITIAL_CLUSTER_TOKEN=%q\n", strings.Join(members, ","), state, s.Name+"-"+uid)
	return []byte(b.String())
}

// initialFile is the file with that.
func (s Spec) initialFile(name, uid string, others []string) remote.File {
	return remote.File{Path: s.initialPath(), Content: s.initial(name, uid, others), Group: account, Mode: "0640"}
}

// env renders the environment file of a member.
func (s Spec) env(name string) []byte {
	m := s.Members[name]
	listen := m.Address
	if _, err := netip.ParseAddr(listen); err != nil {
		// etcd listens on addresses only; a name says nothing about which.
		// Go takes this one for all of both families.
		listen = "0.0.0.0"
	}
	clients := []string{s.url(listen, s.ClientPort)}
	if listen != "0.0.0.0" {
		clients = append(clients, s.url("127.0.0.1", s.ClientPort))
	}
	var b strings.Builder
	b.WriteString("# Written by the pgha provider; changes are overwritten.\n")
	set := func(key, value string) { fmt.Fprintf(&b, "ETCD_%s=%q\n", key, value) }
	set("NAME", name)
	set("DATA_DIR", s.DataDir())
	set("LISTEN_PEER_URLS", s.url(listen, s.PeerPort))
	set("LISTEN_CLIENT_URLS", strings.Join(clients, ","))
	set("INITIAL_ADVERTISE_PEER_URLS", s.PeerURL(name))
	set("ADVERTISE_CLIENT_URLS", s.ClientURL(name))
	tuning := s.tuning()
	for _, key := range tuningKeys {
		if tuning[key] != "" {
			set(key, tuning[key])
		}
	}
	// The default from 3.5 on; without it a member that comes back disturbs
	// a leader that is well.
	set("PRE_VOTE", "true")
	set("EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "true")
	if s.Files != nil {
		for _, pair := range s.Files.on(name).settings(s.Version) {
			set(pair[0], pair[1])
		}
	} else if s.TLS {
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
		// A member would ask whether the address that another one comes from
		// is in that one's certificate. A host with several addresses, or
		// with both families, comes from the one nearest to whom it speaks
		// to, and a name has to be resolved for it; the member that was
		// refused so waits for ever. The name above is what counts.
		set("EXPERIMENTAL_PEER_SKIP_CLIENT_SAN_VERIFICATION", "true")
	}
	return []byte(b.String())
}

// dropIn renders what we add to Debian's unit.
func (s Spec) dropIn() []byte {
	return []byte(`# Written by the pgha provider; changes are overwritten.
[Service]
EnvironmentFile=
EnvironmentFile=-` + s.initialPath() + `
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
func (s Spec) files(name string) []remote.File {
	return []remote.File{
		{Path: s.envPath(), Content: s.env(name), Group: account, Mode: "0640"},
		{Path: dropInPath, Content: s.dropIn()},
	}
}
