// Package credentials is the ephemeral resource pgha_credentials.
package credentials

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// New returns the ephemeral resource.
func New() ephemeral.EphemeralResource { return &credentials{} }

type credentials struct{ base.Ephemeral }

var _ ephemeral.EphemeralResourceWithConfigure = &credentials{}

type model struct {
	Cluster     types.Object `tfsdk:"cluster"`
	Superuser   *account     `tfsdk:"superuser"`
	Replication *account     `tfsdk:"replication"`
	Rewind      *account     `tfsdk:"rewind"`
	RestAPI     *account     `tfsdk:"rest_api"`
}

type account struct {
	Username types.String `tfsdk:"username"`
	Password types.String `tfsdk:"password"`
}

func (c *credentials) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_credentials"
}

func (c *credentials) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	of := func(what string) schema.Attribute {
		return schema.SingleNestedAttribute{
			Computed: true, MarkdownDescription: "Account for " + what + ".",
			Attributes: map[string]schema.Attribute{
				"username": schema.StringAttribute{Computed: true, MarkdownDescription: "Name."},
				"password": schema.StringAttribute{Computed: true, Sensitive: true, MarkdownDescription: "Password."},
			},
		}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "The passwords of a Patroni cluster, read from where the cluster keeps them, for other providers and write-only attributes. They are in no state and no plan.",
		Attributes: map[string]schema.Attribute{
			"cluster":     schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`."},
			"superuser":   of("the superuser"),
			"replication": of("replication"),
			"rewind":      of("`pg_rewind`"),
			"rest_api":    of("Patroni's REST API"),
		},
	}
}

func (c *credentials) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	cluster, ok := connattr.ClusterFrom(ctx, m.Cluster, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if !ok {
		resp.Diagnostics.AddError("Unable to open credentials", "How to reach the cluster is not known.")
		return
	}
	found, err := c.S.Patroni("pgha_credentials "+cluster.Name()).Credentials(ctx, cluster)
	if err != nil {
		c.S.Fail(&resp.Diagnostics, "Unable to open credentials of cluster "+cluster.Name(), err)
		return
	}
	u, s := found.Users, found.Secrets
	of := func(name, password string) *account {
		return &account{Username: types.StringValue(name), Password: types.StringValue(password)}
	}
	m.Superuser, m.Replication = of(u.Superuser, s.Superuser), of(u.Replication, s.Replication)
	m.Rewind, m.RestAPI = of(u.Rewind, s.Rewind), of(u.API, s.API)
	resp.Diagnostics.Append(resp.Result.Set(ctx, &m)...)
}
