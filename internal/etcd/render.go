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
	stage := s.stage(name)
	schemes := stage.clientSchemes()
	var clients []string
	for _, scheme := range schemes {
		clients = append(clients, withScheme(s.url(listen, s.ClientPort), scheme))
	}
	for _, scheme := range schemes {
		if listen != "0.0.0.0" {
			clients = append(clients, withScheme(s.url("127.0.0.1", s.ClientPort), scheme))
		}
	}
	var b strings.Builder
	b.WriteString("# Written by the pgha provider; changes are overwritten.\n")
	set := func(key, value string) { fmt.Fprintf(&b, "ETCD_%s=%q\n", key, value) }
	set("NAME", name)
	set("DATA_DIR", s.DataDir())
	set("LISTEN_PEER_URLS", withScheme(s.url(listen, s.PeerPort), stage.peerScheme()))
	set("LISTEN_CLIENT_URLS", strings.Join(clients, ","))
	set("INITIAL_ADVERTISE_PEER_URLS", withScheme(s.PeerURL(name), stage.peerScheme()))
	set("ADVERTISE_CLIENT_URLS", withScheme(s.ClientURL(name), schemes[0]))
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
	switch {
	case s.Files != nil:
		for _, pair := range s.Files.on(name).settings(s.Version) {
			set(pair[0], pair[1])
		}
	case stage > tlsOff:
		for _, kv := range s.tlsSettings() {
			set(kv[0], kv[1])
		}
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
