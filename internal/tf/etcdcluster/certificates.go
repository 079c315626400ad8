package etcdcluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type certificatesModel struct {
	RenewBefore customtypes.Text `tfsdk:"renew_before"`
}

var certificatesType = map[string]attr.Type{"renew_before": customtypes.DurationType}

func certificatesAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "How the cluster's certificates are looked after. Only with `tls`.",
		Attributes: map[string]schema.Attribute{
			"renew_before": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true, Computed: true, Default: stringdefault.StaticString("720h"),
				MarkdownDescription: "How long before its end a member's certificate is renewed: from then on a plan shows it, and an apply makes another for the same key, which etcd takes without a restart. `720h` (30 days) by default, `24h` to `8640h`; certificates are made for 397 days. From then on there is a warning about the certificate authority, too, which lasts ten years.",
				Validators:          []validator.String{validate.Text("must be between 24h and 8640h", checkRenewBefore)},
			},
		},
	}
}

func checkRenewBefore(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return nil // its type says so
	}
	return etcd.CheckRenewBefore(d)
}

// certificates reads the attribute into the spec. It returns false while anything
// in it is unknown.
func (m model) certificates(ctx context.Context, s *etcd.Spec, diags *diag.Diagnostics) bool {
	if !connattr.Known(m.Certificates) {
		return false
	}
	if m.Certificates.IsNull() {
		return true
	}
	var c certificatesModel
	diags.Append(m.Certificates.As(ctx, &c, basetypes.ObjectAsOptions{})...)
	s.RenewBefore = c.RenewBefore.Duration()
	return !diags.HasError()
}

// checkCertificates refuses the attribute where there are none.
func (m model) checkCertificates(diags *diag.Diagnostics) {
	if !m.Certificates.IsNull() && !m.TLS.IsNull() && !m.TLS.IsUnknown() && !m.TLS.ValueBool() {
		diags.AddAttributeError(path.Root("certificates"), "No certificates without TLS", "tls is false, so that the cluster has no certificates.\nWhat to do: remove certificates.")
	}
}

// warnEnding tells of what ends and an apply does not mend by itself.
func warnEnding(name string, lines []string, diags *diag.Diagnostics) {
	for _, line := range lines {
		diags.AddWarning("The certificate authority of etcd cluster "+name+" has to be replaced", fmt.Sprintf("%s.\n"+
			"Whatever it has signed ends with it: then no member and no client can connect anew.", line))
	}
}

// noCertificates is the attribute where it is not given.
func noCertificates() types.Object { return types.ObjectNull(certificatesType) }
