// Command sqlprovider is a provider as others make them: it is configured with a
// login, and its one data source asks PostgreSQL something with it. Tests use it
// to show that pgha_credentials opens a cluster for another provider.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	providerschema "github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/jackc/pgx/v5"
)

func main() {
	err := providerserver.Serve(context.Background(), func() provider.Provider { return sql{} }, providerserver.ServeOpts{Address: "registry.terraform.io/hashicorp/sql"})
	if err != nil {
		log.Fatal(err)
	}
}

type sql struct{}

type login struct {
	Host     types.String `tfsdk:"host"`
	Port     types.Int64  `tfsdk:"port"`
	User     types.String `tfsdk:"user"`
	Password types.String `tfsdk:"password"`
	CA       types.String `tfsdk:"ca"`
}

func (sql) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "sql"
}

func (sql) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = providerschema.Schema{Attributes: map[string]providerschema.Attribute{
		"host":     providerschema.StringAttribute{Required: true},
		"port":     providerschema.Int64Attribute{Optional: true},
		"user":     providerschema.StringAttribute{Required: true},
		"password": providerschema.StringAttribute{Required: true, Sensitive: true},
		"ca":       providerschema.StringAttribute{Required: true},
	}}
}

func (sql) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var l login
	resp.Diagnostics.Append(req.Config.Get(ctx, &l)...)
	resp.DataSourceData = l
}

func (sql) Resources(context.Context) []func() resource.Resource { return nil }
func (sql) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{func() datasource.DataSource { return &query{} }}
}

type query struct{ login login }

type row struct {
	Statement types.String `tfsdk:"statement"`
	Value     types.String `tfsdk:"value"`
}

func (q *query) Metadata(_ context.Context, _ datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = "sql_query"
}

func (q *query) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{Attributes: map[string]schema.Attribute{
		"statement": schema.StringAttribute{Required: true},
		"value":     schema.StringAttribute{Computed: true},
	}}
}

func (q *query) Configure(_ context.Context, req datasource.ConfigureRequest, _ *datasource.ConfigureResponse) {
	q.login, _ = req.ProviderData.(login)
}

func (q *query) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var r row
	resp.Diagnostics.Append(req.Config.Get(ctx, &r)...)
	value, err := q.ask(ctx, r.Statement.ValueString())
	if err != nil {
		resp.Diagnostics.AddError("Unable to query", err.Error())
		return
	}
	r.Value = types.StringValue(value)
	resp.Diagnostics.Append(resp.State.Set(ctx, &r)...)
}

func (q *query) ask(ctx context.Context, statement string) (string, error) {
	cfg, err := pgx.ParseConfig("dbname=postgres sslmode=require")
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(q.login.CA.ValueString())) {
		return "", errors.New("the certificate cannot be read")
	}
	cfg.Host, cfg.User, cfg.Password = q.login.Host.ValueString(), q.login.User.ValueString(), q.login.Password.ValueString()
	if !q.login.Port.IsNull() {
		cfg.Port = uint16(q.login.Port.ValueInt64())
	}
	cfg.TLSConfig = &tls.Config{RootCAs: roots, ServerName: cfg.Host, MinVersion: tls.VersionTLS12}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	var value string
	err = conn.QueryRow(ctx, statement).Scan(&value)
	return value, err
}
