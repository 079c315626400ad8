package base

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// FindCluster finds the Patroni cluster that an import id names: what its nodes
// have to know, the access to its etcd as a value, and what etcd knows of it.
func (s *Services) FindCluster(ctx context.Context, id connattr.ClusterID) (patroni.Cluster, types.Object, patroni.Known, error) {
	manager, done := s.EtcdCluster("pgha_etcd_cluster " + id.Etcd)
	defer done()
	spec, err := manager.Discover(ctx, id.Etcd, id.Members)
	if err != nil {
		return patroni.Cluster{}, types.Object{}, patroni.Known{}, err
	}
	var diags diag.Diagnostics
	access := connattr.AccessObject(ctx, spec.Access(), types.StringValue(spec.UID), &diags)
	if diags.HasError() {
		return patroni.Cluster{}, access, patroni.Known{}, fmt.Errorf("%s", diags[0].Detail())
	}
	wanted := patroni.Cluster{Scope: id.Scope, Namespace: id.Namespace, Etcd: spec.Access(), PostgresPort: 5432, APIPort: 8008}
	if id.Group != nil {
		wanted.Citus = &patroni.Citus{Group: *id.Group}
	}
	c, k, err := s.Patroni("pgha_patroni_cluster "+wanted.Name()).Identify(ctx, wanted, id.Nodes)
	c.TTL, c.LoopWait = k.Timing()
	return c, access, k, err
}
