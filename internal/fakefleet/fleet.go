// Package fakefleet puts together what tests of whole clusters need: Debian
// hosts in memory with a simulated etcd and Patroni, packages to install, runs
// of the provider with its managers, and a watch over the promises that no run
// may break.
package fakefleet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simetcd"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simpatroni"
)

// Versions that the hosts' repositories have.
const (
	EtcdVersion     = "3.5.16"
	PostgresVersion = "17.11"
	PatroniVersion  = "4.0.7"
)

// Fleet is a world with hosts that can become a cluster.
type Fleet struct {
	*fakehost.World
	Etcd    *simetcd.Sim
	Patroni *simpatroni.Sim
	Watch   *Watch
	// Files and PatroniFiles are the certificates of etcd that somebody else makes; nil
	// if the provider does.
	Files        *etcd.Files
	PatroniFiles *etcd.PatroniFiles
}

// Config is how a fleet is made. The zero value is three hosts under
// testing/synctest.
type Config struct {
	fakehost.Config
	Hosts int // three if zero
}

// New returns a fleet of hosts pg1, pg2, ... at 10.0.0.1, 10.0.0.2, ..., with
// Debian 13 and nothing on them.
func New(tb testing.TB, cfg Config) *Fleet {
	tb.Helper()
	w := fakehost.New(tb, cfg.Config)
	f := &Fleet{World: w, Etcd: simetcd.Install(w)}
	f.Patroni = simpatroni.Install(w, f.Etcd)
	f.Watch = newWatch(f)
	if cfg.Hosts == 0 {
		cfg.Hosts = 3
	}
	for i := range cfg.Hosts {
		m := w.AddDebian(fmt.Sprintf("pg%d", i+1), fmt.Sprintf("10.0.0.%d", i+1), "13")
		w.Do(func() { Stock(m) })
	}
	return f
}

// Stock gives a host what a Debian host has: packages to install, a kernel with
// settings.
func Stock(m *fakehost.Machine) {
	m.Packages["openssl"] = &fakehost.Package{Version: "3.5.4-1~deb13u1"}
	for _, p := range [][]string{
		{"openssl", "3.5.4-1~deb13u1"}, {"etcd-server", "3.5.16-4"}, {"etcd-client", "3.5.16-4"}, {"patroni", "4.0.7-3~deb13u1", "4.1.5-2"},
		{"python3-etcd", "0.4.5-6"}, {"postgresql-17", "17.11-0+deb13u1", "17.12-0+deb13u1"}, {"postgresql-client-17", "17.11-0+deb13u1", "17.12-0+deb13u1"},
		{"libpq5", "17.11-0+deb13u1", "17.12-0+deb13u1"}, {"postgresql-plpython3-17", "17.11-0+deb13u1", "17.12-0+deb13u1"},
		{"chrony", "4.6.1-3"},
	} {
		m.Publish(true, p[0], p[1:]...)
	}
	maps.Copy(m.Source, map[string]string{"postgresql-client-17": "postgresql-17", "libpq5": "postgresql-17", "postgresql-plpython3-17": "postgresql-17"})
	m.Exact["postgresql-plpython3-17"] = "postgresql-17"
	maps.Copy(m.Sysctl, map[string]string{"vm.swappiness": "60", "vm.dirty_background_bytes": "0", "vm.dirty_bytes": "0"})
	m.AddUnit("chrony.service", nil)
}

// Host returns the n-th host, from 1.
func (f *Fleet) Host(n int) *fakehost.Machine { return f.Machines()[n-1] }

// Scope is that of the cluster in this package's examples.
const Scope = "main"

// WaitHealthy waits until the cluster has a primary and so many replicas that
// stream.
func (f *Fleet) WaitHealthy(replicas int) {
	f.TB.Helper()
	healthy := false
	defer func() {
		if !healthy {
			f.Do(func() { f.TB.Log(f.Patroni.Describe()) })
		}
	}()
	f.WaitFor(fmt.Sprintf("a primary and %d streaming replicas", replicas), func() bool {
		healthy = f.Patroni.Healthy(Scope, replicas)
		return healthy
	})
}

// Primary is the name of the host that accepts writes, empty if none does.
func (f *Fleet) Primary() string {
	name := ""
	f.Do(func() {
		if p := f.Patroni.Primary(Scope); p != nil {
			name = p.Machine().Name
		}
	})
	return name
}

// SystemIDs are the identifiers of the databases there are, by host.
func (f *Fleet) SystemIDs() map[string]string {
	ids := map[string]string{}
	f.Do(func() {
		for _, m := range f.Machines() {
			if n := f.Patroni.Node(m); n != nil && n.SystemID() != "" {
				ids[m.Name] = n.SystemID()
			}
		}
	})
	return ids
}

// Value is a key's value in the newest etcd cluster, empty if it is not there.
func (f *Fleet) Value(key string) string {
	value := ""
	f.Do(func() {
		if stores := f.Etcd.Stores(); len(stores) > 0 {
			value, _ = stores[len(stores)-1].Get(key)
		}
	})
	return value
}

// Keys are the keys with a prefix in the newest etcd cluster.
func (f *Fleet) Keys(prefix string) []string {
	var keys []string
	f.Do(func() {
		if stores := f.Etcd.Stores(); len(stores) > 0 {
			keys = stores[len(stores)-1].Keys(prefix)
		}
	})
	return keys
}

// Traces lists the files on a host that a purge must not leave: those with our
// name in their path, and the data.
func (f *Fleet) Traces(m *fakehost.Machine) []string {
	var found []string
	f.Do(func() {
		for _, p := range m.Files.Paths() {
			if strings.Contains(p, "pgha") || strings.HasPrefix(p, "/var/lib/etcd/") || strings.HasPrefix(p, "/var/lib/postgresql/17/") || strings.HasPrefix(p, "/etc/patroni/") {
				found = append(found, p)
			}
		}
	})
	return found
}

// Settle lets time pass until what is under way in the background has come to
// rest: a few turns of Patroni's loop.
func (f *Fleet) Settle() { f.Sleep(time.Minute) }

// Names are the hosts' names.
func (f *Fleet) Names() []string {
	var names []string
	for _, m := range f.Machines() {
		names = append(names, m.Name)
	}
	return slices.Sorted(slices.Values(names))
}
