package patronicluster

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Whatever networks are allowed, the pg_hba made of them passes our own check
// of pg_hba: without the line for the node itself no replica ever took over.
func TestMadeHBAIsComplete(t *testing.T) {
	for _, network := range []string{"samenet", "10.0.0.0/8", "fd00::/8"} {
		m := model{AllowedNetworks: types.ListValueMust(types.StringType, []attr.Value{types.StringValue(network)})}
		var diags diag.Diagnostics
		lines := m.hba(context.Background(), &diags)
		errs, warnings := checkHBA(lines, m.users(), nil)
		if len(errs) > 0 || len(warnings) > 0 || diags.HasError() {
			t.Errorf("%s: %v %v %v in\n%s", network, errs, warnings, diags, strings.Join(lines, "\n"))
		}
	}
}

// Citus comes to its own server as the superuser, also where the networks leave localhost
// out; the line for it is none that an import takes for a network.
func TestHBAOfCitus(t *testing.T) {
	m := model{
		AllowedNetworks: types.ListValueMust(types.StringType, []attr.Value{types.StringValue("10.0.0.0/8")}),
		Citus:           citusObject(t.Context(), &patroni.Citus{Group: 1, Database: "shop"}, types.StringNull(), new(diag.Diagnostics)),
	}
	var diags diag.Diagnostics
	lines := m.hba(t.Context(), &diags)
	const own = "hostssl all postgres samehost scram-sha-256"
	if !slices.Contains(lines, own) {
		t.Errorf("%q is not in %q", own, lines)
	}
	citus := &patroni.Citus{Database: "shop"}
	if errs, warnings := checkHBA(lines, m.users(), citus); len(errs) > 0 || len(warnings) > 0 {
		t.Error(errs, warnings)
	}
	without := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return l == own })
	if errs, warnings := checkHBA(without, m.users(), citus); len(errs) > 0 || len(warnings) != 1 {
		t.Error(errs, warnings)
	}
	imported := model{Citus: m.Citus, pg: noPostgres()}
	imported.takeHBA(t.Context(), patroni.Settings{hbaPath: anyList(lines)}, &diags)
	if !imported.AllowedNetworks.Equal(m.AllowedNetworks) || !imported.pg.HBA.IsNull() || diags.HasError() {
		t.Errorf("imported: %s, %s, %v", imported.AllowedNetworks, imported.pg.HBA, diags)
	}
}

func anyList(lines []string) (list []any) {
	for _, l := range lines {
		list = append(list, l)
	}
	return list
}

// Each line of a pg_hba that Patroni cannot do without is asked for.
func TestCheckHBA(t *testing.T) {
	complete := []string{
		"local all all peer",
		"hostssl replication replicator samehost scram-sha-256",
		"hostssl replication replicator 10.0.0.0/8 scram-sha-256",
		"hostssl postgres rewind_user 10.0.0.0/8 scram-sha-256",
	}
	u := (&model{}).users()
	if errs, warnings := checkHBA(complete, u, nil); len(errs) > 0 || len(warnings) > 0 {
		t.Fatal(errs, warnings)
	}
	for without, want := range map[int]string{
		0: "user postgres in locally", 1: "replicate from the node itself", 3: "which pg_rewind needs",
	} {
		lines := append(append([]string{}, complete[:without]...), complete[without+1:]...)
		errs, _ := checkHBA(lines, u, nil)
		if len(errs) != 1 || !strings.Contains(errs[0], want) {
			t.Errorf("without %q: %v, want one with %q", complete[without], errs, want)
		}
	}
	for line, want := range map[string]bool{
		"hostssl replication replicator 127.0.0.1/32 scram-sha-256":          true,
		"hostssl replication replicator 127.0.0.0 255.0.0.0 scram-sha-256":   true,
		"hostssl replication replicator 10.0.0.0 255.0.0.0 scram-sha-256":    false,
		"hostssl replication replicator 127.0.0.1/32 reject":                 false,
		"hostssl replication replicator ::/0 scram-sha-256":                  false,
		"hostssl replication,app replicator,other localhost scram-sha-256":   true,
		"hostssl all replicator 127.0.0.1/32 scram-sha-256":                  false, // "all" is not for replication
		"hostnossl replication replicator 127.0.0.1/32 scram-sha-256":        false,
		"host replication replicator 0.0.0.0 0.0.0.0 scram-sha-256 # a, b":   true,
		"host replication \"replicator\" samenet scram-sha-256 clientcert=1": true,
	} {
		lines := append([]string{line}, complete...)
		lines = append(lines[:2], lines[3:]...)
		errs, _ := checkHBA(lines, u, nil)
		if got := len(errs) == 0; got != want {
			t.Errorf("%s: %v", line, errs)
		}
	}
}
