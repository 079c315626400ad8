package etcdcluster

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

type certificatesModel struct {
	RenewBefore  customtypes.Text `tfsdk:"renew_before"`
	Authority    types.String     `tfsdk:"authority"`
	Files        types.Object     `tfsdk:"files"`
	PatroniFiles types.Object     `tfsdk:"patroni_files"`
}

var certificatesType = map[string]attr.Type{
	"renew_before": customtypes.DurationType, "authority": types.StringType,
	"files": types.ObjectType{AttrTypes: filesType}, "patroni_files": types.ObjectType{AttrTypes: patroniFilesType},
}

// authorityName are the names of authorities: they become part of a certificate's
// subject.
var authorityName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?$`)

func certificatesAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "How the cluster's certificates are looked after. Only with `tls`.",
		Attributes: map[string]schema.Attribute{
			"renew_before": schema.StringAttribute{
				CustomType: customtypes.DurationType, Optional: true,
				MarkdownDescription: "How long before its end a member's certificate is renewed: from then on a plan shows it, and an apply makes another for the same key, which etcd takes without a restart. `720h` (30 days) by default, `24h` to `8640h`; certificates are made for 397 days. From then on there is a warning about the certificate authority, too, which lasts ten years.",
				Validators:          []validator.String{validate.Text("must be between 24h and 8640h", checkRenewBefore)},
			},
			"files": schema.SingleNestedAttribute{
				Optional: true, Attributes: filesAttributes(),
				MarkdownDescription: "Files on the members' hosts that somebody else makes and renews (a corporate authority's agent, Vault's, ...): the provider then makes no certificate of etcd, and never writes these. The same paths count on all hosts; `{name}` in one stands for the member's name. They are checked in plans and before any member is started: there, readable for `etcd`, fitting together, not over, good for their use and for the member's address, of authorities that all members trust. A renewed certificate needs neither a restart nor an apply. A cluster keeps the kind of certificates that it was made with; the paths may change, which restarts the members one at a time.",
			},
			"patroni_files": schema.SingleNestedAttribute{
				Optional: true, Attributes: patroniFilesAttributes(),
				MarkdownDescription: "Files on the hosts of Patroni's nodes with which these come to etcd, made and renewed by somebody else: for Patroni clusters on an etcd with `files`, or on an imported etcd with TLS of somebody else's. `{name}` stands for the node's name. Whoever replaces an authority keeps it in `trusted` until the nodes have other certificates; this is looked at before members are restarted. The paths cannot change.",
			},
			"authority": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of the cluster's certificate authority, such as `2026`: another name, or the first one that a cluster gets which exists, replaces it, in stages of which each apply makes those that interrupt nothing. Members are restarted twice for it, one at a time, the leader last; Patroni's nodes are reloaded. Unless given it is whichever there is.",
				Validators:          []validator.String{stringvalidator.RegexMatches(authorityName, "must have 1 to 32 letters, digits, '.', '_' and '-', and begin and end with a letter or a digit")},
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
	s.RenewBefore, s.Authority = c.RenewBefore.Duration(), c.Authority.ValueString()
	c.files(ctx, s, diags)
	return !diags.HasError()
}

// checkCertificates refuses the attribute where there are none, and what cannot be
// together in it.
func (m model) checkCertificates(ctx context.Context, diags *diag.Diagnostics) {
	if !m.Certificates.IsNull() && !m.Certificates.IsUnknown() {
		checkFilesConfig(ctx, m.Certificates.Attributes(), diags)
	}
	if !m.Certificates.IsNull() && !m.TLS.IsNull() && !m.TLS.IsUnknown() && !m.TLS.ValueBool() {
		diags.AddAttributeError(path.Root("certificates"), "No certificates without TLS", "tls is false, so that the cluster has no certificates.\nWhat to do: remove certificates.")
	}
}

// warnEnding tells of what ends and an apply does not mend by itself.
func warnEnding(name string, lines []string, diags *diag.Diagnostics) {
	for _, line := range lines {
		diags.AddWarning("The certificate authority of etcd cluster "+name+" has to be replaced", fmt.Sprintf("%s.\n"+
			"Whatever it has signed ends with it: then no member and no client can connect anew.\n"+
			"What to do: give certificates.authority another name, such as %q, and apply that until a plan shows no changes.", line, time.Now().UTC().Format("2006-01")))
	}
}

// noCertificates is the attribute where it is not given.
func noCertificates() types.Object { return types.ObjectNull(certificatesType) }
