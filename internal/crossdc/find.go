package crossdc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Find is the replication of that name that clusters are in, by what they have noted and
// are configured to, for whoever takes it up without a state.
func (m Manager) Find(ctx context.Context, name string, clusters map[string][]patroni.Cluster) (Spec, error) {
	const step = "look the replication up in etcd"
	s := Spec{Name: name, Sites: map[string]Site{}, Limits: DefaultLimits}
	for site, list := range clusters {
		var members []Member
		for _, c := range list {
			members = append(members, Member{Cluster: c})
		}
		s.Sites[site] = Site{Clusters: members}
	}
	v, err := m.open(ctx, s)
	if err != nil {
		return s, err
	}
	for _, site := range s.names() {
		if err := v.unreachable(site); err != nil {
			return s, err
		}
	}
	if err := m.look(ctx, v); err != nil {
		return s, err
	}
	n := v.note()
	if n == nil || n.Replication != name {
		return s, refused(step, fmt.Sprintf("the clusters are in no replication %q", name), "to have one, create the resource: there is nothing to import.")
	}
	s.Primary = n.Primary
	for _, site := range s.names() {
		for _, l := range v[site] {
			if l.note == nil || l.note.Site != site {
				return s, refused(step, fmt.Sprintf("the cluster %s is not noted as one of site %q", l.name(), site), "name each cluster with its site's name as it was.")
			}
			s.found(v, l)
		}
	}
	// Where nobody says it otherwise, a cluster's servers are at its nodes' addresses.
	for _, site := range s.names() {
		for i, l := range v[site] {
			if member := &s.Sites[site].Clusters[i]; len(member.Hosts) == 0 {
				for _, r := range l.known.Nodes {
					member.Hosts = append(member.Hosts, r.Address)
				}
				slices.Sort(member.Hosts)
			}
		}
	}
	return s, nil
}

// found takes from a standby's configuration whom it follows, at which hosts, and how late.
func (s Spec) found(v view, l *look) {
	standby := l.known.Standby()
	if standby == nil {
		return
	}
	hosts := strings.Split(patroni.Text(standby["host"]), ",")
	up := s.Primary
	for _, other := range s.others(l.site) {
		for _, r := range v[other][l.index].known.Nodes {
			if slices.Contains(hosts, r.Address) {
				up = other
			}
		}
	}
	s.Sites[up].Clusters[l.index].Hosts = hosts
	site := s.Sites[l.site]
	if up != s.Primary {
		site.Follow = up
	}
	if d, err := time.ParseDuration(patroni.Text(standby["recovery_min_apply_delay"])); err == nil {
		site.Delay = d
	}
	s.Sites[l.site] = site
}
