// Package crossdc replicates clusters between datacenters: which site takes writes, whom
// the others follow, and how that moves from one site to another.
//
// A site has one Patroni cluster, or all groups of a Citus formation. Each cluster of a
// site that is not the primary has standby_cluster in its dynamic configuration (Patroni
// documentation, "Standby cluster"): that, and not what anybody remembers, says which site
// is the primary. ADR 33 has the order of a move, and why no row is lost in it.
package crossdc

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Spec is the replication as it should be.
type Spec struct {
	Name    string
	Primary string
	Sites   map[string]Site
	Limits  Limits
	// Forced: the primary is moved without the site that has it now, which is lost.
	Forced bool
	// AcceptLoss names what may be lost, in the words of the error that asked for it.
	AcceptLoss string
}

// Limits are what a planned move may cost.
type Limits struct {
	Lag         int64         // bytes that the new site may be behind when it begins
	Transaction time.Duration // how old a transaction may be that it ends
	Gap         time.Duration // for how long nobody takes writes, before it is taken back
}

// DefaultLimits are those that the user leaves open.
var DefaultLimits = Limits{Lag: 16 << 20, Transaction: 5 * time.Minute, Gap: time.Minute}

// Site is a datacenter.
type Site struct {
	// Clusters are its Patroni clusters: one, or the groups of a Citus formation in the
	// order of their numbers.
	Clusters []Member
	// Follow is the site that it follows while it is not the primary; empty for the primary.
	Follow string
	// Delay is how long it waits before it applies what it has received.
	Delay time.Duration
}

// Member is a cluster of a site.
type Member struct {
	Cluster patroni.Cluster
	// Hosts are the addresses at which other sites reach its servers: those of all nodes,
	// or one that follows the leader.
	Hosts []string
}

// names are the sites in their order.
func (s Spec) names() []string { return slices.Sorted(maps.Keys(s.Sites)) }

// others are all sites but one.
func (s Spec) others(site string) []string {
	return slices.DeleteFunc(s.names(), func(n string) bool { return n == site })
}

// upstream is the site that another one follows; empty for the primary.
func (s Spec) upstream(site, primary string) string {
	if site == primary {
		return ""
	}
	if f := s.Sites[site].Follow; f != "" && f != site {
		return f
	}
	return primary
}

// followers are the sites that follow another one, in their order.
func (s Spec) followers(site, primary string) []string {
	var list []string
	for _, name := range s.names() {
		if s.upstream(name, primary) == site {
			list = append(list, name)
		}
	}
	return list
}

// SiteName is how sites are called: their names become those of replication slots, with _
// for -.
var SiteName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,39}$`)

// slot is the replication slot that keeps WAL for a site, on the servers that it follows.
func slot(site string) string { return "pgha_site_" + strings.ReplaceAll(site, "-", "_") }

const slotPaths = "slots/pgha_site_"

func slotPath(site string) string { return "slots/" + slot(site) }

// slotted reports whether a site has a slot on the servers of its upstream. Patroni
// connects to a primary only if there are several hosts and a slot (config.py,
// build primary_conninfo), so a site that follows a standby has one only where one address
// leads to that one's leader.
func (s Spec) slotted(site string, cluster int, primary string) bool {
	up := s.upstream(site, primary)
	return up == primary || len(s.Sites[up].Clusters[cluster].Hosts) == 1
}

const standbyPath = "standby_cluster"

// standby is the standby_cluster of a cluster of a site, nil for the primary's.
func (s Spec) standby(site string, cluster int, primary string) map[string]any {
	up := s.upstream(site, primary)
	if up == "" {
		return nil
	}
	of := s.Sites[up].Clusters[cluster]
	m := map[string]any{"host": strings.Join(of.Hosts, ","), "port": int64(of.Cluster.PostgresPort)}
	if s.slotted(site, cluster, primary) {
		m["primary_slot_name"] = slot(site)
	}
	if d := s.Sites[site].Delay; d > 0 {
		m["recovery_min_apply_delay"] = strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	}
	return m
}

// slots are the slots that a cluster of a site keeps for those that follow it.
func (s Spec) slots(site string, cluster int, primary string) patroni.Settings {
	wanted := patroni.Settings{}
	for _, f := range s.followers(site, primary) {
		if s.slotted(f, cluster, primary) {
			wanted[slotPath(f)] = map[string]any{"type": "physical"}
		}
	}
	return wanted
}

// Check refuses what cannot be, before anything is asked.
func (s Spec) Check() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(s.Sites) < 2 {
		refuse("there are fewer than two sites: there is nothing to replicate between")
	}
	if _, there := s.Sites[s.Primary]; !there {
		refuse("primary is %q, which is none of the sites %s", s.Primary, strings.Join(s.names(), ", "))
	}
	seen, slots := map[string]string{}, map[string]string{}
	for _, name := range s.names() {
		site := s.Sites[name]
		if other, twice := slots[slot(name)]; twice {
			refuse("the sites %s and %s would have the same replication slot, %s", other, name, slot(name))
		}
		slots[slot(name)] = name
		if f := site.Follow; f != "" {
			if _, there := s.Sites[f]; !there || f == name {
				refuse("site %s follows %q, which is no other site", name, f)
			}
		}
		if len(site.Clusters) == 0 {
			refuse("site %s has no clusters", name)
		}
		for _, m := range site.Clusters {
			key := m.Cluster.Etcd.Key() + m.Cluster.Prefix()
			if other, twice := seen[key]; twice {
				refuse("the cluster %s is in site %s and in site %s", m.Cluster.Name(), other, name)
			}
			seen[key] = name
			if len(m.Hosts) == 0 {
				refuse("the cluster %s of site %s has no hosts", m.Cluster.Name(), name)
			}
		}
		if err := s.alike(name); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, name := range s.names() {
		at := name
		for range s.Sites {
			at = cmp.Or(s.upstream(at, s.Primary), at)
		}
		if at != s.Primary {
			refuse("site %s follows sites that follow each other in a circle, and not the primary %s", name, s.Primary)
		}
	}
	return errors.Join(errs...)
}

// alike refuses a site whose clusters do not go with those of the first one.
func (s Spec) alike(name string) error {
	first := s.Sites[s.names()[0]].Clusters
	these := s.Sites[name].Clusters
	if len(first) != len(these) {
		return fmt.Errorf("site %s has %d clusters, and site %s has %d", s.names()[0], len(first), name, len(these))
	}
	for i := range these {
		a, b := first[i].Cluster, these[i].Cluster
		switch {
		case group(a) != group(b):
			return fmt.Errorf("site %s has %s where site %s has %s: each group needs its counterpart", s.names()[0], a.Name(), name, b.Name())
		case a.Citus != nil && a.Citus.Database != b.Citus.Database:
			return fmt.Errorf("the formation of site %s is in the database %s, and that of site %s in %s: they have the same data", s.names()[0], a.Citus.Database, name, b.Citus.Database)
		case a.Users.Superuser != b.Users.Superuser || a.Users.Replication != b.Users.Replication || a.Users.Rewind != b.Users.Rewind:
			return fmt.Errorf("the accounts (credentials) of site %s have other names than those of site %s: a standby has its primary's", name, s.names()[0])
		case a.PostgresPort != b.PostgresPort && a.Citus != nil:
			return fmt.Errorf("the ports of the formation (postgresql_port) differ between site %s and site %s", s.names()[0], name)
		}
	}
	return nil
}

// group is the number of a Citus group, -1 for a cluster that is none.
func group(c patroni.Cluster) int {
	if c.Citus == nil {
		return -1
	}
	return c.Citus.Group
}

// Note is what each cluster's etcd knows of the replication.
type Note struct {
	Replication string `json:"replication"`
	Site        string `json:"site"`
	Primary     string `json:"primary"`
	// Generation counts the moves of the primary, from 1.
	Generation int64 `json:"generation"`
	// Lost are sites without which the primary was moved, by their names.
	Lost map[string]Lost `json:"lost,omitempty"`
}

// Lost is what is known of a site without which the primary was moved.
type Lost struct {
	At time.Time `json:"at"`
	// Ends are where its history ends for the others, by cluster: what it has beyond that
	// is not in the new primary.
	Ends []End `json:"ends"`
	// Unfenced are hosts that could not be reached: their servers may take writes.
	Unfenced []string `json:"unfenced,omitempty"`
}

// End is a place in the WAL.
type End struct {
	Timeline int64 `json:"timeline"`
	LSN      int64 `json:"lsn"`
}

func (e End) String() string {
	return fmt.Sprintf("%s of timeline %d", patroni.FormatLSN(e.LSN), e.Timeline)
}

const noteKey = "site"

// Move is a planned move that has begun, noted in the clusters of both sites.
type Move struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Leaders are the nodes that led the clusters of the old site.
	Leaders []string `json:"leaders"`
}

const moveKey = "journal/site"

// acceptance is what accept_data_loss has to say for a site to be given up: its name, and
// how often the primary has moved, so that it counts once.
func acceptance(site string, generation int64) string {
	return site + "@" + strconv.FormatInt(generation, 10)
}

func refused(step, cause, do string) error {
	return &problem.Error{Step: step, Cause: errors.New(cause), Left: "everything.", Do: do}
}
