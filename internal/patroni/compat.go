package patroni

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// checkEtcd refuses a pair of versions that does not work together, before
// anything is installed.
func (d *Doer) checkEtcd(ctx context.Context, n Node) error {
	a := n.Cluster.Etcd
	if !a.Auth || !before(n.Patroni, 4, 1, 1) {
		return nil
	}
	for _, name := range a.Names() {
		st, err := d.KV.Status(ctx, a.URL(name))
		if err != nil {
			continue // which members are healthy is etcd's own affair
		}
		if etcd.RefusesOldPatroni(st.Version) {
			return &problem.Error{
				Host: n.Target.Name, Step: "check that the versions work together",
				Cause: errors.New("Patroni " + n.Patroni + " cannot log in to etcd " + st.Version + " (member " + name + "): with authentication on, that version refuses what Patroni before 4.1.1 asks first"),
				Left:  "the host, as it was.",
				Do:    fmt.Sprintf("pin Patroni 4.1.1 or later, or let etcd %q stay below 3.4.42, 3.5.28 and 3.6.9.", a.Name),
			}
		}
	}
	return nil
}
