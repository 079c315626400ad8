// Package debian builds what a lab's hosts boot from: images of Debian, and a
// pool of packages for apt in the hosts, which have no way out.
package debian

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Release is a release of Debian the lab can run, and what is built of it.
type Release struct {
	Name string
	// Suites are where packages come from. The release's own come first; only
	// packages asked for by name, and what they cannot do without, come from
	// the others.
	Suites []Suite
	// Base is what a bare host has, besides what Debian calls essential. It is
	// what a fresh server has and not more: the provider has to cope with it.
	Base []string
	// Warm is what a warm host has besides, in the release's own version.
	Warm []string
	// Pool is what else is in the pool.
	Pool []string
	// Newer are packages of which the pool holds a version from a later suite
	// too, for the tests of upgrades. apt takes the packages of one element
	// together.
	Newer [][]string
	// Superseded are packages that the release had and has replaced since. The
	// mirror's lists no longer have them, its folders still do. Hosts start with
	// them, so that there is something to upgrade to.
	Superseded []Superseded
	// Pairs are the packages of which the pool should hold two versions.
	Pairs []string
}

// Superseded is a package that the mirror's lists no longer have. Its checksum
// stands in for the signature of the lists.
type Superseded struct {
	Name, Version string
	Folder        string // on the mirror
	SHA256        string // of the file for amd64
}

// Suite is one suite of the archive.
type Suite struct {
	Name string
	// Security says that it is on the mirror of security updates.
	Security bool
	// Foreign says that it is not of the release.
	Foreign bool
}

var base = []string{"systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "python3-minimal"}

var tools = []string{
	"python3-psycopg2", "python3-systemd", "ca-certificates", "curl", "iputils-ping", "iputils-arping",
}

var releases = map[string]Release{
	"trixie": {
		Name: "trixie",
		Suites: []Suite{
			{Name: "trixie"},
			{Name: "trixie-updates"},
			{Name: "trixie-security", Security: true},
			{Name: "sid", Foreign: true},
		},
		Base: base,
		Warm: []string{
			"etcd-server", "etcd-client", "postgresql-17", "postgresql-client-17", "patroni", "python3-etcd", "openssl",
			"vip-manager2", "bind9", "bind9-utils", "bind9-dnsutils", "pgbackrest", "chrony", "haproxy",
		},
		Pool: tools,
		Newer: [][]string{
			{"patroni/sid"}, {"etcd-server/sid", "etcd-client/sid"}, {"vip-manager2/sid"},
		},
		Superseded: []Superseded{
			{"postgresql-17", "17.11-0+deb13u1", "pool/main/p/postgresql-17", "d2ce1ddffafa783f9acda4c92c86fc21e8288bff3782d739294f14fa797d7886"},
			{"postgresql-client-17", "17.11-0+deb13u1", "pool/main/p/postgresql-17", "9d8558f8dd57c8e92e218a20698383575d53742ca3f9e7c2b7fe5f246d5216ae"},
			{"libpq5", "17.11-0+deb13u1", "pool/main/p/postgresql-17", "20a4c9ef58b4baf90deda67cfb2cc062871c062830dddc234d28f5ac7931b86b"},
		},
		Pairs: []string{"postgresql-17", "patroni", "etcd-server", "vip-manager2"},
	},
	"bookworm": {
		Name: "bookworm",
		Suites: []Suite{
			{Name: "bookworm"},
			{Name: "bookworm-updates"},
			{Name: "bookworm-security", Security: true},
			{Name: "trixie", Foreign: true},
		},
		Base: base,
		Warm: []string{
			"etcd-server", "etcd-client", "postgresql-15", "postgresql-client-15", "patroni", "python3-etcd", "openssl",
			"bind9", "bind9-utils", "bind9-dnsutils", "pgbackrest", "chrony", "haproxy",
		},
		Pool: append([]string{"vip-manager"}, tools...),
		// Not sid's etcd: it cannot be configured here (its sysusers.d file is
		// written for a later systemd: "Unknown modifier 'u!'").
		Newer: [][]string{
			{"patroni/trixie"}, {"etcd-server/trixie", "etcd-client/trixie"},
		},
		Pairs: []string{"postgresql-15", "patroni", "etcd-server"},
	},
}

// Default is the release of a lab that was asked for none.
const Default = "trixie"

// Find returns the release of a name.
func Find(name string) (Release, error) {
	r, ok := releases[name]
	if !ok {
		return r, fmt.Errorf("the lab knows no Debian release %q: it has %s", name, strings.Join(Names(), " and "))
	}
	return r, nil
}

// Names returns the releases there are.
func Names() []string { return slices.Sorted(maps.Keys(releases)) }
