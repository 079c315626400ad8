// Package etcd builds etcd clusters on hosts and talks to them: the wanted
// state, the files rendered from it, the facts found, the plan from one to the
// other, and a client that reaches the members through SSH.
package etcd

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// Spec is an etcd cluster as it should be.
type Spec struct {
	Name string
	// UID tells the cluster from another one of the same name; empty while it is
	// not known. That of a cluster that somebody else made is its own cluster id,
	// see adoptedUID.
	UID string

	Version string // pin
	Members map[string]Member
	// Leaving are members that the configuration no longer has, or has on
	// another host: how to reach them, to take them out of the cluster.
	Leaving map[string]Member

	ClientPort, PeerPort int

	TLS  bool // for clients and peers
	Auth bool // users, passwords, roles

	// Heartbeat and Election are etcd's --heartbeat-interval and
	// --election-timeout (etcd documentation, "Time parameters").
	Heartbeat, Election time.Duration

	// QuotaBytes is --quota-backend-bytes.
	QuotaBytes int64

	// CompactionRetention is --auto-compaction-retention in periodic mode.
	// Patroni rewrites its keys in every loop, so without compaction the
	// history grows for ever.
	CompactionRetention time.Duration

	// SnapshotCount is --snapshot-count; zero is etcd's own default.
	SnapshotCount int64

	// DefragmentAbove is how much may be free inside a member's database, in
	// bytes, until an apply defragments it; zero is any amount.
	DefragmentAbove int64

	// RenewBefore is how long before its end a certificate is renewed; zero is
	// pki.RenewBefore.
	RenewBefore time.Duration

	// Authority names the certificate authority that is wanted: another name is
	// another authority. Empty is whichever there is.
	Authority string

	// Files are certificates on the members' hosts that somebody else makes; nil if this
	// provider does. PatroniFiles are those for Patroni's nodes, on theirs.
	Files        *Files
	PatroniFiles *PatroniFiles

	// Snapshots are taken by a timer on the hosts; nil if they are not.
	Snapshots *Snapshots

	// Restore asks for the data to be put back; nil if nobody does.
	Restore *Restore

	// Theirs are where the certificates of a cluster that somebody else made are, by
	// member; found on its hosts.
	Theirs map[string]theirFiles

	// Stages are how far members are on the way to TLS, by name: at the end unless it
	// is said. Secured: somebody else made the cluster without TLS, so that the
	// certificates are ours.
	Stages  map[string]tlsStage
	Secured bool
}

// Member is one member of the cluster.
type Member struct {
	// Address is the IP address or name under which clients and the other
	// members reach it.
	Address string
	// Target is how we reach its host.
	Target host.Target
}

// Names returns the members' names in order.
func (s Spec) Names() []string { return slices.Sorted(maps.Keys(s.Members)) }

// with is the spec with only some of the members, for what concerns no others.
func (s Spec) with(names []string) Spec {
	members := map[string]Member{}
	for _, n := range names {
		members[n] = s.Members[n]
	}
	s.Members = members
	return s
}

// scheme is the scheme of all URLs.
func (s Spec) scheme() string {
	if s.TLS {
		return "https"
	}
	return "http"
}

// PeerURL is where the other members reach a member.
func (s Spec) PeerURL(name string) string {
	return s.url(s.Members[name].Address, s.PeerPort)
}

// ClientURL is where clients reach a member.
func (s Spec) ClientURL(name string) string {
	return s.url(s.Members[name].Address, s.ClientPort)
}

// url is a URL of the cluster's scheme.
func (s Spec) url(address string, port int) string {
	return s.scheme() + "://" + net.JoinHostPort(address, strconv.Itoa(port))
}

// Quorum is how many members must agree.
func Quorum(members int) int { return members/2 + 1 }

// Authority is the cluster's certificate authority.
func Authority(cluster string) pki.Authority { return pki.Authority{Name: "etcd-" + cluster} }

// Dir is the folder of our own files about the cluster on each member's host.
func Dir(cluster string) string { return "/etc/pgha/etcd/" + cluster }

// Paths of our files on a member's host.
func (s Spec) envPath() string         { return Dir(s.Name) + "/etcd.env" }
func (s Spec) initialPath() string     { return Dir(s.Name) + "/initial.env" }
func (s Spec) authorityPath() string   { return Dir(s.Name) + "/ca.crt" }
func (s Spec) credentialsPath() string { return credentialsPath(s.Name) }
func credentialsPath(cluster string) string {
	return Dir(cluster) + "/credentials.json"
}

// adoptedPrefix begins the uid of a cluster that somebody else made.
const adoptedPrefix = "cluster-"

// adoptedUID is the uid of a cluster that somebody else made: etcd's own id.
func adoptedUID(id uint64) string { return fmt.Sprintf("%s%x", adoptedPrefix, id) }

// Adopted reports whether somebody else made the cluster. Its members keep their
// data directories, ports and whatever else they were started with.
func (s Spec) Adopted() bool { return strings.HasPrefix(s.UID, adoptedPrefix) }

// DataDir is --data-dir. It is not the one of Debian's unit, so that a cluster
// that the package started by itself is never mistaken for ours.
func (s Spec) DataDir() string { return "/var/lib/etcd/" + s.Name }

// Paths that do not depend on the cluster: a host runs one etcd.
const (
	// MarkerPath says which cluster the host's etcd belongs to.
	MarkerPath = "/etc/pgha/etcd.json"
	// Unit is Debian's unit.
	Unit       = "etcd.service"
	dropInPath = "/etc/systemd/system/etcd.service.d/pgha.conf"
	// DefaultDataDir is where Debian's unit puts the data of a cluster that
	// the package started by itself.
	DefaultDataDir = "/var/lib/etcd/default"
	account        = "etcd"
	serverPackage  = "etcd-server"
	clientPackage  = "etcd-client"
)

// peerSubject is the common name of every peer certificate. Members accept
// only it on the peer port: any other certificate of the same authority, a
// Patroni node's for example, could otherwise speak Raft and go around all
// access control.
func peerSubject(cluster string) string { return pki.Subject("etcd-peer." + cluster) }

// leaves are the certificates that a member's host needs.
func (s Spec) leaves(name string) []pki.Leaf {
	address := s.Members[name].Address
	dir := Dir(s.Name)
	names := []string{address, "localhost", "127.0.0.1", "::1"}
	if _, err := netip.ParseAddr(name); err != nil && name != address {
		names = append(names, name)
	}
	return []pki.Leaf{
		{
			// etcd's HTTP gateway, which Patroni speaks to, dials its own
			// gRPC port with the server's certificate: both usages.
			Organization: "etcd-server." + s.Name, Names: names, Server: true, Client: true,
			Key: dir + "/server.key", Certificate: dir + "/server.crt", Owner: "root", Group: account,
		},
		{
			CommonName: peerSubject(s.Name), Names: []string{address}, Server: true, Client: true,
			Key: dir + "/peer.key", Certificate: dir + "/peer.crt", Owner: "root", Group: account,
		},
	}
}

// Timing limits of etcd (etcd documentation, "Tuning"): the election timeout
// is at least five heartbeats and at most 50 s.
const (
	MinHeartbeat = 10 * time.Millisecond
	MaxElection  = 50 * time.Second
)

// CheckTiming says what is wrong with a heartbeat and an election timeout.
func CheckTiming(heartbeat, election time.Duration) error {
	switch {
	case heartbeat < MinHeartbeat:
		return fmt.Errorf("heartbeat_interval is %s; etcd needs at least %s", heartbeat, MinHeartbeat)
	case election < 5*heartbeat:
		return fmt.Errorf("election_timeout is %s; etcd needs at least five heartbeats, here %s", election, 5*heartbeat)
	case election > MaxElection:
		return fmt.Errorf("election_timeout is %s; etcd allows at most %s", election, MaxElection)
	}
	return nil
}

// ShortElection says why an election timeout is short for members that are so far
// apart, empty if it is not (etcd documentation, "Tuning": ten round trips).
func ShortElection(election, roundTrip time.Duration) string {
	least := 10 * roundTrip
	if election >= least {
		return ""
	}
	heartbeat, better := Timing(roundTrip)
	return fmt.Sprintf("The longest round trip between two members takes %s, and the election timeout is %s: less than ten round trips. A leader that is well may be voted out whenever the network is slow for a moment.\nWhat to do: set heartbeat_interval = %q and election_timeout = %q, or leave both out.",
		roundTrip.Round(100*time.Microsecond), election, heartbeat, better)
}

// Timing derives a heartbeat and an election timeout from the longest round
// trip between two members: a heartbeat of about one round trip and an
// election timeout of at least ten, never below etcd's own defaults, which
// leave room for a slow disk.
func Timing(roundTrip time.Duration) (heartbeat, election time.Duration) {
	heartbeat = max(100*time.Millisecond, (roundTrip*3/2 + 10*time.Millisecond - 1).Truncate(10*time.Millisecond))
	election = max(10*heartbeat, time.Second)
	if election > MaxElection {
		election = MaxElection
		heartbeat = min(heartbeat, MaxElection/5)
	}
	return heartbeat, election
}
