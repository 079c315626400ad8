package crossdc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/citus"
	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// metadata waits until a formation's metadata has the hosts of the site that it is in:
// Patroni writes those of the primaries by itself. Rows of the other site's standbys go.
func (m Manager) metadata(ctx context.Context, v view, site string) error {
	coordinator := v[site][0]
	b, err := m.Database(ctx, coordinator.cluster, coordinator.cluster.Citus.Database)
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, l := range v[site] {
		for _, r := range l.known.Nodes {
			here[r.Address] = true
		}
	}
	bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err = wait.Until(bounded, m.Log, "Citus's metadata to have the hosts of site "+site, time.Second, func(ctx context.Context) (bool, string, error) {
		nodes, err := citus.Nodes(ctx, b)
		if err != nil {
			return false, "", err
		}
		var away []string
		for _, n := range nodes {
			switch {
			case here[n.Host]:
			case n.Role == "primary":
				away = append(away, fmt.Sprintf("group %d is at %s", n.Group, n.Host))
			default:
				if _, err := b.Rows(ctx, "citus.remove", "select citus_remove_node("+patroni.Literal(n.Host)+", "+fmt.Sprint(n.Port)+")"); err != nil {
					return false, "", err
				}
			}
		}
		return len(away) == 0, strings.Join(away, ", "), nil
	})
	if err != nil {
		return err
	}
	_, err = b.Rows(ctx, "citus.prepared", "select recover_prepared_transactions()")
	return err
}

// settleMetadata is metadata as a step, for a formation.
func (m Manager) settleMetadata(v view, site string) engine.Plan {
	if len(v[site]) < 2 {
		return engine.Plan{}
	}
	return engine.Sequence(v[site][0].step("metadata", "see that Citus's metadata has the hosts of site "+site, engine.Safe, func(ctx context.Context) error {
		return m.metadata(ctx, v, site)
	}))
}

// blind keeps the hosts of a formation from reaching those of a site that is given up, until
// the metadata has its own: a coordinator that is promoted would write into the other
// site's workers, which the copied metadata names, as long as they can be reached.
func (s Spec) blind(v view, given []string, to string, on bool) engine.Plan {
	var addresses []string
	for _, site := range given {
		for i, member := range s.Sites[site].Clusters {
			addresses = append(addresses, member.Hosts...)
			if i < len(v[site]) && v[site][i].err == nil {
				for _, r := range v[site][i].known.Nodes {
					addresses = append(addresses, r.Address)
				}
			}
		}
	}
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)
	id, title := "blind", "cut its hosts off from site "+strings.Join(given, ", ")+", whose workers the metadata names"
	if !on {
		id, title = "see", "let its hosts reach site "+strings.Join(given, ", ")+" again"
	}
	var plan engine.Plan
	if len(addresses) == 0 || len(v[to]) < 2 {
		return plan // there are no workers
	}
	l := v[to][0]
	return plan.Then(l.step(id, title, engine.Safe, func(ctx context.Context) error {
		return l.live.Blind(ctx, addresses, on)
	}))
}
