package provider_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
)

// actions is the part of a provider that runs actions.
type actions interface {
	ValidateActionConfig(context.Context, *tfprotov6.ValidateActionConfigRequest) (*tfprotov6.ValidateActionConfigResponse, error)
	PlanAction(context.Context, *tfprotov6.PlanActionRequest) (*tfprotov6.PlanActionResponse, error)
	InvokeAction(context.Context, *tfprotov6.InvokeActionRequest) (*tfprotov6.InvokeActionServerStream, error)
}

// invoke runs an action as Terraform does, and returns what it told on the way and
// its errors.
func (c *core) invoke(name string, config object) (progress, failed string) {
	c.t.Helper()
	server := c.server.(actions)
	schema := c.schemas.ActionSchemas[name]
	if schema == nil {
		c.t.Fatalf("there is no action %s", name)
	}
	typ := schema.Schema.ValueType()
	v := c.dynamic(typ, value(typ, config))
	checked, err := server.ValidateActionConfig(c.t.Context(), &tfprotov6.ValidateActionConfigRequest{ActionType: name, Config: v})
	if err != nil {
		c.t.Fatal(err)
	}
	if text := errorsIn(checked.Diagnostics); text != "" {
		return "", text
	}
	planned, err := server.PlanAction(c.t.Context(), &tfprotov6.PlanActionRequest{ActionType: name, Config: v})
	if err != nil {
		c.t.Fatal(err)
	}
	c.must(planned.Diagnostics)
	stream, err := server.InvokeAction(c.t.Context(), &tfprotov6.InvokeActionRequest{ActionType: name, Config: v})
	if err != nil {
		c.t.Fatal(err)
	}
	for e := range stream.Events {
		switch e := e.Type.(type) {
		case tfprotov6.ProgressInvokeActionEventType:
			progress += e.Message + "\n"
		case tfprotov6.CompletedInvokeActionEventType:
			failed += errorsIn(e.Diagnostics)
		}
	}
	return progress, failed
}

// The action gives back what is free, tells how much, and leaves alone where there
// is nothing to be had; with a member away it does nothing.
func TestDefragmentAction(t *testing.T) {
	const mib = 1 << 20
	onFleet(t, nil, func(t *testing.T, s *site) {
		s.create()
		s.f.Do(func() {
			st := s.f.Etcd.Stores()[0]
			st.Fill(100*mib, 40*mib, 40*mib)
			st.DB("pg2").Size = 41 * mib
		})
		config := object{"etcd": s.dcs.get("access"), "above": "8MiB"}
		progress, failed := s.core.invoke("pgha_etcd_defragment", config)
		if failed != "" || !strings.Contains(progress, "pg1: 100.0 MiB before, 40.0 MiB now") || !strings.Contains(progress, "pg2: left alone, 1.0 MiB of 41.0 MiB are free") {
			t.Errorf("%s%s", failed, progress)
		}
		s.f.Do(func() {
			st := s.f.Etcd.Stores()[0]
			for _, n := range []string{"pg1", "pg2", "pg3"} {
				if want := map[bool]int{true: 0, false: 1}[n == "pg2"]; st.DB(n).Defragmented != want {
					t.Errorf("%s was defragmented %d times, want %d", n, st.DB(n).Defragmented, want)
				}
			}
			st.Fill(100*mib, 40*mib, 40*mib)
			u := s.f.Host(3).Units["etcd.service"]
			u.Active = "deactivating"
			u.Service.Stop(u)
		})
		s.f.Settle()
		if _, failed := s.core.invoke("pgha_etcd_defragment", config); !strings.Contains(failed, "pg3") || !strings.Contains(failed, "no other is taken out of service") {
			t.Errorf("with a member away: %s", failed)
		}
		if _, failed := s.core.invoke("pgha_etcd_defragment", object{"etcd": s.dcs.get("access"), "above": "3KiB"}); !strings.HasPrefix(failed, "above: ") {
			t.Errorf("of too little: %s", failed)
		}
	})
}
