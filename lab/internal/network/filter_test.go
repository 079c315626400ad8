package network

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestRender(t *testing.T) {
	net := plan.Net{A: 10, B: 77}
	for name, rules := range map[string]Rules{
		"nothing-leaves": {Net: net, Datacenters: 2},
		"empty":          {Net: net},
		"host-cut":       {Net: net, Datacenters: 1, CutHosts: []HostCut{{Datacenter: 1, Number: 12}, {Datacenter: 1, Number: 11}}},
		"host-cut-from-runner": {
			Net: net, Datacenters: 1, CutHosts: []HostCut{{Datacenter: 1, Number: 11, FromRunner: true}},
		},
		"datacenter-cut": {
			Net: net, Datacenters: 3, CutDatacenters: []DatacenterCut{{Number: 3, FromRunner: true}, {Number: 2}},
		},
		"bastion": {Net: net, Datacenters: 2, Bastions: []int{2}},
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".nft")
			got := rules.Render()
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
