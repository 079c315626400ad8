package provider_test

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/pgha/terraform-provider-pgha/internal/provider"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
)

// core plays Terraform's part towards the provider, in this process: it asks in
// the order in which Terraform does, and holds the provider to what Terraform
// holds it to. So that whole configurations can be applied to fake hosts in
// virtual time.
type core struct {
	t       testing.TB
	server  tfprotov6.ProviderServer
	schemas *tfprotov6.GetProviderSchemaResponse
}

// object is a configuration: texts, numbers, booleans, lists, objects, and
// tftypes.Value for what another resource has returned.
type object = map[string]any

// unknown is a value that another resource has still to make.
type unknown struct{}

// newCore starts a provider. Override is what New has.
func newCore(t testing.TB, override func(*base.Services), config object) *core {
	t.Helper()
	c := &core{t: t, server: providerserver.NewProtocol6(provider.New("test", override)())()}
	var err error
	if c.schemas, err = c.server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{}); err != nil {
		t.Fatal(err)
	}
	c.must(c.schemas.Diagnostics)
	if config == nil {
		config = object{}
	}
	typ := c.schemas.Provider.ValueType()
	resp, err := c.server.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{TerraformVersion: "1.11.0", Config: c.dynamic(typ, value(typ, config))})
	if err != nil {
		t.Fatal(err)
	}
	c.must(resp.Diagnostics)
	return c
}

func (c *core) must(diags []*tfprotov6.Diagnostic) {
	c.t.Helper()
	if text := errorsIn(diags); text != "" {
		c.t.Fatal(text)
	}
}

// errorsIn are the errors among diagnostics, each with its path.
func errorsIn(diags []*tfprotov6.Diagnostic) string {
	return told(diags, tfprotov6.DiagnosticSeverityError)
}

func told(diags []*tfprotov6.Diagnostic, severity tfprotov6.DiagnosticSeverity) string {
	var b strings.Builder
	for _, d := range diags {
		if d.Severity == severity {
			fmt.Fprintf(&b, "%s: %s\n%s\n", at(d.Attribute), d.Summary, d.Detail)
		}
	}
	return b.String()
}

// at writes a path as people do: postgresql.parameters["x"].
func at(p *tftypes.AttributePath) string {
	var b strings.Builder
	for _, s := range p.Steps() {
		switch s := s.(type) {
		case tftypes.AttributeName:
			if b.Len() > 0 {
				b.WriteString(".")
			}
			b.WriteString(string(s))
		case tftypes.ElementKeyString:
			fmt.Fprintf(&b, "[%q]", string(s))
		case tftypes.ElementKeyInt:
			fmt.Fprintf(&b, "[%d]", int64(s))
		case tftypes.ElementKeyValue:
			b.WriteString("[?]")
		}
	}
	return b.String()
}

// value makes a value of a type; what an object leaves out is null.
func value(typ tftypes.Type, v any) tftypes.Value {
	switch v := v.(type) {
	case tftypes.Value:
		return v
	case unknown:
		return tftypes.NewValue(typ, tftypes.UnknownValue)
	case nil:
		return tftypes.NewValue(typ, nil)
	}
	switch typ := typ.(type) {
	case tftypes.Object:
		fields := map[string]tftypes.Value{}
		given := v.(object)
		for name := range given {
			if typ.AttributeTypes[name] == nil {
				panic("there is no attribute " + name)
			}
		}
		for name, t := range typ.AttributeTypes {
			fields[name] = value(t, given[name])
		}
		return tftypes.NewValue(typ, fields)
	case tftypes.Map:
		elements := map[string]tftypes.Value{}
		for k, e := range v.(object) {
			elements[k] = value(typ.ElementType, e)
		}
		return tftypes.NewValue(typ, elements)
	case tftypes.List:
		var elements []tftypes.Value
		for _, e := range v.([]any) {
			elements = append(elements, value(typ.ElementType, e))
		}
		return tftypes.NewValue(typ, elements)
	}
	if n, ok := v.(int); ok {
		return tftypes.NewValue(typ, int64(n))
	}
	return tftypes.NewValue(typ, v)
}

func (c *core) dynamic(typ tftypes.Type, v tftypes.Value) *tfprotov6.DynamicValue {
	c.t.Helper()
	d, err := tfprotov6.NewDynamicValue(typ, v)
	if err != nil {
		c.t.Fatal(err)
	}
	return &d
}

func (c *core) static(typ tftypes.Type, d *tfprotov6.DynamicValue) tftypes.Value {
	c.t.Helper()
	v, err := d.Unmarshal(typ)
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// resource is a resource in Terraform's state, or one that is to be made.
type resource struct {
	core    *core
	name    string // its type
	schema  *tfprotov6.Schema
	typ     tftypes.Type
	state   tftypes.Value
	private []byte
}

func (c *core) resource(name string) *resource {
	s := c.schemas.ResourceSchemas[name]
	typ := s.ValueType()
	return &resource{core: c, name: name, schema: s, typ: typ, state: tftypes.NewValue(typ, nil)}
}

// validate is what "terraform validate" asks.
func (r *resource) validate(config tftypes.Value) []*tfprotov6.Diagnostic {
	r.core.t.Helper()
	resp, err := r.core.server.ValidateResourceConfig(r.core.t.Context(), &tfprotov6.ValidateResourceConfigRequest{
		TypeName: r.name, Config: r.core.dynamic(r.typ, config), ClientCapabilities: &tfprotov6.ValidateResourceConfigClientCapabilities{WriteOnlyAttributesAllowed: true},
	})
	if err != nil {
		r.core.t.Fatal(err)
	}
	return resp.Diagnostics
}

// plan is what "terraform plan" asks once the state was refreshed. A nil
// configuration is a destroy.
func (r *resource) plan(config object) (tftypes.Value, []byte, []*tfprotov6.Diagnostic) {
	r.core.t.Helper()
	cv := tftypes.NewValue(r.typ, nil)
	if config != nil {
		cv = value(r.typ, config)
		if diags := r.validate(cv); errorsIn(diags) != "" {
			return tftypes.Value{}, nil, diags
		}
	}
	proposed := cv
	if config != nil {
		proposed = proposedBlock(r.schema.Block, r.state, cv)
	}
	resp, err := r.core.server.PlanResourceChange(r.core.t.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: r.name, PriorState: r.core.dynamic(r.typ, r.state), ProposedNewState: r.core.dynamic(r.typ, proposed), Config: r.core.dynamic(r.typ, cv),
		PriorPrivate: r.private,
	})
	if err != nil {
		r.core.t.Fatal(err)
	}
	if errorsIn(resp.Diagnostics) != "" {
		return tftypes.Value{}, nil, resp.Diagnostics
	}
	planned := r.core.static(r.typ, resp.PlannedState)
	if config != nil {
		for path, v := range leaves(r.core.t, cv) {
			// What was given is planned as it was given.
			if w := leaves(r.core.t, planned)[path]; v.IsKnown() && !v.IsNull() && !w.Equal(v) && !w.IsNull() {
				r.core.t.Errorf("%s: %s is planned as %s, and %s was given", r.name, path, w, v)
			}
		}
	}
	return planned, resp.PlannedPrivate, resp.Diagnostics
}

// apply plans and applies. It returns all that was said, and leaves the state
// as Terraform would save it.
func (r *resource) apply(config object) []*tfprotov6.Diagnostic {
	r.core.t.Helper()
	planned, private, diags := r.plan(config)
	if errorsIn(diags) != "" {
		return diags
	}
	cv := tftypes.NewValue(r.typ, nil)
	if config != nil {
		cv = value(r.typ, config)
	}
	resp, err := r.core.server.ApplyResourceChange(r.core.t.Context(), &tfprotov6.ApplyResourceChangeRequest{
		TypeName: r.name, PriorState: r.core.dynamic(r.typ, r.state), PlannedState: r.core.dynamic(r.typ, planned), Config: r.core.dynamic(r.typ, cv),
		PlannedPrivate: private,
	})
	if err != nil {
		r.core.t.Fatal(err)
	}
	r.state, r.private = r.core.static(r.typ, resp.NewState), resp.Private
	if errorsIn(resp.Diagnostics) == "" && config != nil {
		got := leaves(r.core.t, r.state)
		for path, want := range leaves(r.core.t, planned) {
			if want.IsKnown() && !got[path].Equal(want) {
				r.core.t.Errorf("%s: Provider produced inconsistent result after apply: %s is %s, planned was %s", r.name, path, got[path], want)
			}
		}
		for path, v := range got {
			if !v.IsKnown() {
				r.core.t.Errorf("%s: %s is unknown after apply", r.name, path)
			}
		}
	}
	return append(diags, resp.Diagnostics...)
}

// refresh reads.
func (r *resource) refresh() []*tfprotov6.Diagnostic {
	r.core.t.Helper()
	resp, err := r.core.server.ReadResource(r.core.t.Context(), &tfprotov6.ReadResourceRequest{
		TypeName: r.name, CurrentState: r.core.dynamic(r.typ, r.state), Private: r.private,
	})
	if err != nil {
		r.core.t.Fatal(err)
	}
	if errorsIn(resp.Diagnostics) == "" {
		r.state, r.private = r.core.static(r.typ, resp.NewState), resp.Private
	}
	return resp.Diagnostics
}

// unchanged checks that refreshing finds nothing, and that there is nothing to do.
func (r *resource) unchanged(config object) {
	r.core.t.Helper()
	before := r.state
	r.core.must(r.refresh())
	if d := differences(r.core.t, before, r.state); len(d) > 0 {
		r.core.t.Errorf("%s: the refresh changed %s", r.name, strings.Join(d, ", "))
	}
	planned, _, diags := r.plan(config)
	r.core.must(diags)
	if d := differences(r.core.t, r.state, planned); len(d) > 0 {
		r.core.t.Errorf("%s: the plan is not empty: %s", r.name, strings.Join(d, ", "))
	}
}

// get is a value in the state.
func (r *resource) get(name string) tftypes.Value {
	r.core.t.Helper()
	var fields map[string]tftypes.Value
	if err := r.state.As(&fields); err != nil {
		r.core.t.Fatal(err)
	}
	return fields[name]
}

// text is the state as Terraform would write it to a file, in all that matters
// here.
func (r *resource) text() string {
	var b strings.Builder
	for path, v := range leaves(r.core.t, r.state) {
		fmt.Fprintf(&b, "%s = %s\n", path, v)
	}
	return b.String() + string(r.private)
}

func differences(t testing.TB, a, b tftypes.Value) []string {
	t.Helper()
	var list []string
	x, y := leaves(t, a), leaves(t, b)
	for _, path := range slices.Sorted(maps.Keys(x)) {
		if w, ok := y[path]; !ok || !w.Equal(x[path]) {
			list = append(list, fmt.Sprintf("%s: %s -> %s", path, x[path], w))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(y)) {
		if _, ok := x[path]; !ok {
			list = append(list, fmt.Sprintf("%s: (nothing) -> %s", path, y[path]))
		}
	}
	return list
}

// leaves are the values in a value that hold no others, by their path.
func leaves(t testing.TB, v tftypes.Value) map[string]tftypes.Value {
	t.Helper()
	found := map[string]tftypes.Value{}
	err := tftypes.Walk(v, func(p *tftypes.AttributePath, v tftypes.Value) (bool, error) {
		inner := v.IsKnown() && !v.IsNull() && (v.Type().Is(tftypes.Object{}) || v.Type().Is(tftypes.Map{}) || v.Type().Is(tftypes.List{}))
		if !inner {
			found[at(p)] = v
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// proposedBlock is what Terraform proposes (objchange.ProposedNew): the
// configuration, and where that says nothing about what the provider computes,
// what there was. Write-only values stay out.
func proposedBlock(b *tfprotov6.SchemaBlock, prior, config tftypes.Value) tftypes.Value {
	fields := proposedFields(b.Attributes, prior, config)
	given := fieldsOf(config)
	for _, n := range b.BlockTypes {
		fields[n.TypeName] = given[n.TypeName]
	}
	return tftypes.NewValue(config.Type(), fields)
}

func proposedFields(attributes []*tfprotov6.SchemaAttribute, prior, config tftypes.Value) map[string]tftypes.Value {
	had, given := fieldsOf(prior), fieldsOf(config)
	out := map[string]tftypes.Value{}
	for _, a := range attributes {
		v, ok := had[a.Name]
		if !ok {
			v = tftypes.NewValue(given[a.Name].Type(), nil)
		}
		switch {
		case a.WriteOnly:
			out[a.Name] = tftypes.NewValue(given[a.Name].Type(), nil)
		case given[a.Name].IsNull() && a.Computed:
			out[a.Name] = v
		case a.NestedType != nil:
			out[a.Name] = proposedNested(a.NestedType, v, given[a.Name])
		default:
			out[a.Name] = given[a.Name]
		}
	}
	return out
}

func proposedNested(n *tfprotov6.SchemaObject, prior, config tftypes.Value) tftypes.Value {
	if config.IsNull() || !config.IsKnown() {
		return config
	}
	object := func(prior, config tftypes.Value) tftypes.Value {
		if config.IsNull() || !config.IsKnown() {
			return config
		}
		return tftypes.NewValue(config.Type(), proposedFields(n.Attributes, prior, config))
	}
	switch n.Nesting {
	case tfprotov6.SchemaObjectNestingModeMap:
		had, out := fieldsOf(prior), map[string]tftypes.Value{}
		for k, v := range fieldsOf(config) {
			out[k] = object(had[k], v)
		}
		return tftypes.NewValue(config.Type(), out)
	case tfprotov6.SchemaObjectNestingModeList:
		var had, given, out []tftypes.Value
		_ = prior.As(&had)
		_ = config.As(&given)
		for i, v := range given {
			p := tftypes.NewValue(v.Type(), nil)
			if i < len(had) {
				p = had[i]
			}
			out = append(out, object(p, v))
		}
		return tftypes.NewValue(config.Type(), out)
	}
	return object(prior, config)
}

// fieldsOf takes an object or map apart; nothing has no fields.
func fieldsOf(v tftypes.Value) map[string]tftypes.Value {
	var fields map[string]tftypes.Value
	if v.Type() != nil && v.IsKnown() && !v.IsNull() {
		_ = v.As(&fields)
	}
	return fields
}

// plain makes a text of a value in the state.
func plain(v tftypes.Value) string {
	var s string
	var n big.Float
	switch {
	case v.As(&s) == nil:
		return s
	case v.As(&n) == nil:
		return n.String()
	}
	return v.String()
}
