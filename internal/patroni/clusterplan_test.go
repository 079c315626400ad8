package patroni

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
)

// What etcd knows in, steps out.
func TestClusterPlan(t *testing.T) {
	wanted := Settings{"ttl": int64(30), Parameter("work_mem"): "4MB", Parameter("max_connections"): "200"}
	secrets := Secrets{Superuser: "a", Replication: "b", Rewind: "c", API: "d", Etcd: "e"}
	cluster := exampleNode().Cluster
	complete := func() Known {
		return Known{
			Record: &Record{EtcdUser: true, UID: "uid", DeletionProtection: true, Owned: wanted.Paths(), Cluster: &cluster}, Secrets: &secrets, Authority: []byte("pem"),
			Initialize: "7", Initialized: true, Config: wanted.Document(), ConfigRevision: 5,
		}
	}
	for name, c := range map[string]struct {
		known func(*Known)
		spec  func(*ClusterSpec)
		want  string
		risk  engine.Risk
		title string // of the last step, in part
	}{
		"new": {
			known: func(k *Known) { *k = Known{} },
			want:  "cluster.record, cluster.secrets, cluster.authority, cluster.etcd_user, cluster.config", title: "write the dynamic configuration",
		},
		"new, in an etcd without users": {
			known: func(k *Known) { *k = Known{} }, spec: func(s *ClusterSpec) { s.Cluster.Etcd.Auth = false },
			want: "cluster.record, cluster.secrets, cluster.authority, cluster.config",
		},
		"complete":                         {want: ""},
		"cut off after the record":         {known: func(k *Known) { k.Secrets, k.Authority, k.Config, k.ConfigRevision = nil, nil, nil, 0 }, want: "cluster.secrets, cluster.authority, cluster.etcd_user, cluster.config"},
		"cut off before the configuration": {known: func(k *Known) { k.Config, k.ConfigRevision = nil, 0 }, want: "cluster.etcd_user, cluster.config"},
		"never had a user in etcd":         {known: func(k *Known) { k.Record.EtcdUser = false }, want: "cluster.etcd_user"},
		"released before":                  {known: func(k *Known) { k.Record.Released = true }, want: "cluster.release.undo, cluster.record"},
		"protection is taken off":          {spec: func(s *ClusterSpec) { s.DeletionProtection = false }, want: "cluster.record"},
		"a parameter by reload": {
			spec: func(s *ClusterSpec) { s.Wanted[Parameter("work_mem")] = "8MB" },
			want: "cluster.config", risk: engine.Reload, title: "work_mem: 4MB -> 8MB",
		},
		"a parameter more": {
			spec: func(s *ClusterSpec) { s.Wanted[Parameter("jit")] = "off" },
			want: "cluster.record, cluster.config", risk: engine.Reload, title: "jit: (not set) -> off",
		},
		"a parameter less": {
			spec: func(s *ClusterSpec) { delete(s.Wanted, Parameter("work_mem")) },
			want: "cluster.record, cluster.config", risk: engine.Reload, title: "work_mem: 4MB -> (not set)",
		},
		"somebody else's settings": {known: func(k *Known) { k.Config["pause"] = true }, want: ""},
		"passwords that are brought, before there is a database": {
			known: func(k *Known) { k.Initialize, k.Initialized = "", false }, spec: func(s *ClusterSpec) { s.Bring.Superuser = "mine" }, want: "cluster.secrets",
		},
		"passwords that are made anew, before there is a database": {
			known: func(k *Known) { k.Initialize, k.Initialized = "", false }, spec: func(s *ClusterSpec) { s.Origin.Etcd = Made(1) }, want: "cluster.secrets, cluster.etcd_user",
		},
		// Only another number asks for that.
		"passwords that are brought, when there is a database": {spec: func(s *ClusterSpec) { s.Bring.Superuser = "mine" }, want: ""},
		"the same passwords again":                             {known: func(k *Known) { k.Initialized = false }, spec: func(s *ClusterSpec) { s.Bring.Superuser = "a" }, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			k := complete()
			if c.known != nil {
				c.known(&k)
			}
			s := ClusterSpec{Cluster: exampleNode().Cluster, Wanted: Settings{}, Owned: wanted.Paths(), DeletionProtection: true}
			for path, v := range wanted {
				s.Wanted[path] = v
			}
			if c.spec != nil {
				c.spec(&s)
			}
			plan := clusterPlanner{s: s, do: &Doer{Known: k, Log: slog.New(slog.DiscardHandler)}}.plan()
			if got := plan.String(); got != c.want {
				t.Fatalf("the plan is %q, want %q", got, c.want)
			}
			if plan.Risk() != c.risk {
				t.Errorf("risk %s, want %s", plan.Risk(), c.risk)
			}
			if steps := plan.Steps(); c.title != "" && !strings.Contains(steps[len(steps)-1].Title, c.title) {
				t.Errorf("the last step is %q, want %q in it", steps[len(steps)-1].Title, c.title)
			}
		})
	}
}
