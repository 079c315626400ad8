// Package customtypes holds string types of which two texts can mean the same:
// durations ("90s", "1m30s") and sizes ("1GiB", "1024MiB"). What a server
// reports in its own form is not drift if it means what was written.
package customtypes

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/attr/xattr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// kind is what tells the types apart.
type kind struct {
	name  string
	parse func(string) (int64, error)
}

// textType is a string type whose values are numbers in disguise.
type textType struct {
	basetypes.StringType
	kind *kind
}

var _ basetypes.StringTypable = textType{}

func (t textType) String() string { return "customtypes." + t.kind.name }

func (t textType) Equal(o attr.Type) bool {
	other, ok := o.(textType)
	return ok && other.kind == t.kind
}

func (t textType) ValueType(context.Context) attr.Value { return Text{kind: t.kind} }

func (t textType) ValueFromString(_ context.Context, in basetypes.StringValue) (basetypes.StringValuable, diag.Diagnostics) {
	return Text{StringValue: in, kind: t.kind}, nil
}

func (t textType) ValueFromTerraform(ctx context.Context, in tftypes.Value) (attr.Value, error) {
	v, err := t.StringType.ValueFromTerraform(ctx, in)
	if err != nil {
		return nil, err
	}
	s, ok := v.(basetypes.StringValue)
	if !ok {
		return nil, fmt.Errorf("unexpected value of type %T", v)
	}
	return Text{StringValue: s, kind: t.kind}, nil
}

// Text is a value of one of this package's types.
type Text struct {
	basetypes.StringValue
	kind *kind
}

var (
	_ basetypes.StringValuableWithSemanticEquals = Text{}
	_ xattr.ValidateableAttribute                = Text{}
)

// Type returns the value's own type.
func (v Text) Type(context.Context) attr.Type { return textType{kind: v.kind} }

// Equal is equality to the letter.
func (v Text) Equal(o attr.Value) bool {
	other, ok := o.(Text)
	return ok && v.kind == other.kind && v.StringValue.Equal(other.StringValue)
}

// StringSemanticEquals is equality of meaning.
func (v Text) StringSemanticEquals(_ context.Context, o basetypes.StringValuable) (bool, diag.Diagnostics) {
	other, ok := o.(Text)
	if !ok {
		return false, nil
	}
	a, err1 := v.kind.parse(v.ValueString())
	b, err2 := v.kind.parse(other.ValueString())
	return err1 == nil && err2 == nil && a == b, nil
}

// ValidateAttribute refuses what cannot be read.
func (v Text) ValidateAttribute(_ context.Context, req xattr.ValidateAttributeRequest, resp *xattr.ValidateAttributeResponse) {
	if v.IsNull() || v.IsUnknown() {
		return
	}
	if _, err := v.kind.parse(v.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, "Invalid "+v.kind.name, err.Error())
	}
}

// number is the value's meaning, zero if it has none.
func (v Text) number() int64 {
	if v.IsNull() || v.IsUnknown() {
		return 0
	}
	n, _ := v.kind.parse(v.ValueString())
	return n
}
