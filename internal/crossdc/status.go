package crossdc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Status is a replication as it is now.
type Status struct {
	Primary    string // empty where none is, or several are
	Generation int64
	SplitBrain bool
	Sites      map[string]SiteStatus
	// Blocked are, for each site that is not the primary, what speaks against moving it there.
	Blocked  map[string][]string
	Warnings []string
}

// SiteStatus is a site as it is now.
type SiteStatus struct {
	Role     string // "primary", "standby", "moving", "lost" or "unreachable"
	Follows  string // the site whose WAL it gets, empty for a primary
	Clusters []ClusterStatus
	Error    string
}

// ClusterStatus is a cluster of a site as it is now.
type ClusterStatus struct {
	Name     string
	Leader   string
	Writable bool
	Timeline int64 // 0 if not known
	LSN      int64 // written by a primary, applied by a standby
	Lag      int64 // bytes behind the primary, -1 if not known
	Streams  bool
}

// Status looks at all sites and changes nothing.
func (m Manager) Status(ctx context.Context, s Spec) (out Status, err error) {
	v, err := m.open(ctx, s)
	if err != nil {
		return out, err
	}
	if err := m.look(ctx, v); err != nil {
		return out, err
	}
	primary, split := s.primary(v)
	out = Status{Primary: primary, Sites: map[string]SiteStatus{}, Blocked: map[string][]string{}, SplitBrain: len(split) > 0}
	if n := v.note(); n != nil {
		out.Generation = n.Generation
	}
	if w := s.writers(v); len(w) > 1 {
		out.SplitBrain = true
		out.Warnings = append(out.Warnings, "several sites take writes at the same time: "+strings.Join(w, " and "))
	}
	if mv := v.move(); mv != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("a move of the primary from %s to %s was cut off: apply again", mv.From, mv.To))
	}
	if primary == "" && len(split) == 0 && v.note() != nil {
		out.Warnings = append(out.Warnings, "no site is the primary: nobody can write")
	}
	for _, name := range s.names() {
		site := SiteStatus{Role: s.role(v, name), Follows: s.upstream(name, primary)}
		if err := v.unreachable(name); err != nil {
			site.Error = m.Redact.Apply(problem.Details(err))
			out.Warnings = append(out.Warnings, "site "+name+" cannot be reached: "+m.Redact.Apply(err.Error()))
		}
		for i, l := range v[name] {
			site.Clusters = append(site.Clusters, l.status(v[primary], i))
		}
		out.Sites[name] = site
		lost, given := v.lost(name)
		if given && v.unreachable(name) == nil {
			out.Warnings = append(out.Warnings, m.diverged(ctx, s, v, name, lost))
		}
		if name != primary && primary != "" {
			out.Blocked[name] = m.gates(ctx, s, v, primary, name)
		}
	}
	return out, nil
}

func (s Spec) role(v view, site string) string {
	if _, given := v.lost(site); given {
		return "lost"
	}
	switch v.state(site) {
	case unknown:
		return "unreachable"
	case leads:
		return "primary"
	case follows:
		return "standby"
	}
	return "moving"
}

func (l *look) status(primary []*look, i int) ClusterStatus {
	c := ClusterStatus{Name: l.site, Lag: -1}
	if l.err != nil {
		return c
	}
	c.Name = l.cluster.Name()
	leader, st, ok := l.leader()
	if !ok {
		return c
	}
	c.Leader, c.Writable = leader, st.Primary()
	if st.Timeline != nil {
		c.Timeline = *st.Timeline
	}
	if c.LSN = max(st.XLog.Replayed, st.XLog.Location); c.Writable {
		c.Lag = 0
		return c
	}
	c.Streams, _ = streams(st)
	if i < len(primary) && primary[i].err == nil {
		if _, of, ok := primary[i].leader(); ok && of.Primary() {
			c.Lag = max(0, of.XLog.Location-st.XLog.Replayed)
		}
	}
	return c
}

// Names are the sites in their order.
func (s Status) Names() []string { return slices.Sorted(maps.Keys(s.Sites)) }

// At is LSN as PostgreSQL writes it.
func (c ClusterStatus) At() string { return patroni.FormatLSN(c.LSN) }

// Table renders the status for people.
func (s Status) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %-12s %-16s %-12s %4s %14s %12s\n", "SITE", "ROLE", "CLUSTER", "LEADER", "TL", "LSN", "LAG")
	for _, name := range s.Names() {
		for _, c := range s.Sites[name].Clusters {
			lag := "unknown"
			switch {
			case c.Writable:
				lag = "-"
			case c.Lag >= 0:
				lag = fmt.Sprintf("%d B", c.Lag)
			}
			fmt.Fprintf(&b, "%-12s %-12s %-16s %-12s %4d %14s %12s\n", name, s.Sites[name].Role, c.Name, dash(c.Leader), c.Timeline, c.At(), lag)
		}
	}
	return b.String()
}
