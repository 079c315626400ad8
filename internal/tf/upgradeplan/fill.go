package upgradeplan

import (
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

func (m *model) fill(p patroni.UpgradePlan) diag.Diagnostics {
	var diags diag.Diagnostics
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		diags.AddError("Unable to render the plan", err.Error())
		return diags
	}
	m.JSON, m.Table = types.StringValue(string(b)), types.StringValue(p.Table())
	m.Ready = types.BoolValue(len(p.Problems) == 0)
	m.Switchovers, m.WriteGaps = types.Int64Value(int64(p.Switchovers)), types.Int64Value(int64(p.WriteGaps))
	m.NextLeader = text(p.NextLeader)
	m.Problems, m.Hazards = append([]string{}, p.Problems...), append([]string{}, p.Hazards...)
	m.Turns, m.Steps = []turnModel{}, []stepModel{}
	for _, t := range p.Turns {
		m.Turns = append(m.Turns, turnModel{
			Order: types.Int64Value(int64(t.Order)), Node: types.StringValue(t.Node), Host: types.StringValue(t.Host), Leads: types.BoolValue(t.Leads),
			Reason: types.StringValue(t.Reason), HandsOverTo: text(t.HandsOverTo),
		})
	}
	for _, s := range p.Steps {
		m.Steps = append(m.Steps, stepModel{
			Order: types.Int64Value(int64(s.Order)), Node: types.StringValue(s.Node), Host: text(s.Host),
			ID: types.StringValue(s.ID), Title: types.StringValue(s.Title), Risk: types.StringValue(s.Risk),
		})
	}
	return diags
}

func text(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}
