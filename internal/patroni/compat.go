package patroni

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

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
	versions := d.etcdVersions(ctx, a)
	for _, name := range sortedKeys(versions) {
		if version := versions[name]; etcd.RefusesOldPatroni(version) {
			return &problem.Error{
				Host: n.Target.Name, Step: "check that the versions work together",
				Cause: errors.New("Patroni " + n.Patroni + " cannot log in to etcd " + version + " (member " + name + "): with authentication on, that version refuses what Patroni before 4.1.1 asks first"),
				Left:  "the host, as it was.",
				Do:    fmt.Sprintf("pin Patroni 4.1.1 or later, or let etcd %q stay below 3.4.42, 3.5.28 and 3.6.9.", a.Name),
			}
		}
	}
	return nil
}

// versionPatience is how long a member may take to say its version. One that is still to
// be made does not answer, and which are healthy is etcd's own affair.
const versionPatience = 3 * time.Second

// etcdVersions are the versions of the members that answer, by name.
func (d *Doer) etcdVersions(ctx context.Context, a etcd.Access) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, versionPatience)
	defer cancel()
	var mu sync.Mutex
	var all sync.WaitGroup
	versions := map[string]string{}
	for _, name := range a.Names() {
		all.Go(func() {
			st, err := d.KV.Status(ctx, a.URL(name))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			versions[name] = st.Version
		})
	}
	all.Wait()
	return versions
}
