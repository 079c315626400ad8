package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/acceptance/writer"
	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// One etcd and one cluster over three datacenters, of which the third has a witness only, as
// modules/multi-datacenter makes it: the datacenter with the primary is lost, another one
// takes over by itself, and no acknowledged row is missing.
func TestStretched(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{Image: labhost.Warm, Datacenters: []labhost.Datacenter{
		{Name: "dc1", Hosts: []string{"a1", "a2"}}, {Name: "dc2", Hosts: []string{"b1", "b2"}}, {Name: "dc3", Hosts: []string{"c1"}},
	}})
	ctx := t.Context()
	for _, dc := range []string{"dc2", "dc3"} {
		if err := lab.Latency(ctx, dc, 7*time.Millisecond, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	s := &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}
	s.stretch()
	s.Apply(ctx)
	s.NoChanges(ctx)
	datacenters := map[string][]string{"dc1": {"a1", "a2"}, "dc2": {"b1", "b2"}}
	all := []string{"a1", "a2", "b1", "b2"}
	s.healthy("a1", all...)

	lost, left := "dc1", "dc2"
	leader := s.leader("a1")
	if slices.Contains(datacenters[left], leader) {
		lost, left = left, lost
	}
	s.app(leader)
	c := s.writerConfig()
	c.Hosts = nil
	for _, h := range all {
		c.Hosts = append(c.Hosts, lab.Host(h).Addr)
	}
	w := writer.Start(t, c)
	s.eventually("rows", time.Minute, func(context.Context) (bool, string) { return w.Acked() >= 200, fmt.Sprint(w.Acked()) })
	if err := lab.Kill(ctx, datacenters[lost]...); err != nil {
		t.Fatal(err)
	}
	survivor := datacenters[left][0]
	w.TakeGap()
	before := w.Acked()
	s.eventually("writes in "+left, 3*time.Minute, func(context.Context) (bool, string) { return w.Acked() > before+100, fmt.Sprint(w.Acked()) })
	t.Logf("%s was lost, %s took over by itself: nobody wrote for %s", lost, left, w.TakeGap())
	if now := s.leader(survivor); !slices.Contains(datacenters[left], now) {
		t.Fatalf("%s leads", now)
	}
	has(t, s.Plan(ctx), "Unable to read host "+datacenters[lost][0], "Unable to read some members of etcd cluster dcs", "No changes.")
	if err := lab.Start(ctx, datacenters[lost]...); err != nil {
		t.Fatal(err)
	}
	s.healthy(survivor, all...)
	w.Check(t)
	s.NoChanges(ctx)
}

// stretch writes the module as a root module for the lab's hosts.
func (s *site) stretch() {
	s.t.Helper()
	for _, name := range []string{"main.tf", "variables.tf", "outputs.tf"} {
		text, err := os.ReadFile(filepath.Join("..", "modules", "multi-datacenter", name))
		if err != nil {
			s.t.Fatal(err)
		}
		s.Write(name, string(text))
	}
	s.Write("provider.tf", "provider \"pgha\" {\n  on_unreachable = \"keep\"\n}\noutput \"ca\" { value = one(values(pgha_patroni_cluster.main)).ca_certificate }\n")
	s.Write("lab_override.tf", "resource \"pgha_host\" \"db\" {\n  time_sync = \"off\"\n}\n")
	sites := map[string]any{}
	for _, dc := range []string{"dc1", "dc2", "dc3"} {
		hosts := map[string]string{}
		for _, h := range s.lab.Hosts() {
			if h.Datacenter == dc {
				hosts[h.Name] = h.Addr
			}
		}
		site := map[string]any{"hosts": hosts}
		if dc == "dc3" {
			site["nodes"] = []string{}
		}
		sites[dc] = site
	}
	variables, err := json.MarshalIndent(map[string]any{
		"sites": sites, "etcd": "stretched", "allowed_networks": []string{"10.0.0.0/8"}, "failure_detection": "fast",
		"versions": map[string]string{"etcd": debver.Upstream(s.oldest("etcd-server")), "patroni": debver.Upstream(s.newest("patroni")), "postgresql": debver.Upstream(s.oldest("postgresql-17"))},
	}, "", "  ")
	if err != nil {
		s.t.Fatal(err)
	}
	s.Write("lab.auto.tfvars.json", string(variables))
}
