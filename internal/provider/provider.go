// Package provider is the provider block: it turns it into services that
// connect nowhere until a resource needs them, and lists the resources.
package provider

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/function"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/roll"
	"github.com/pgha/terraform-provider-pgha/internal/sshx"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/citusdata"
	"github.com/pgha/terraform-provider-pgha/internal/tf/citusgroup"
	"github.com/pgha/terraform-provider-pgha/internal/tf/clusterdata"
	credentialsephemeral "github.com/pgha/terraform-provider-pgha/internal/tf/credentials"
	"github.com/pgha/terraform-provider-pgha/internal/tf/crossdc"
	"github.com/pgha/terraform-provider-pgha/internal/tf/dnsrecord"
	"github.com/pgha/terraform-provider-pgha/internal/tf/etcdcluster"
	"github.com/pgha/terraform-provider-pgha/internal/tf/etcddefragment"
	"github.com/pgha/terraform-provider-pgha/internal/tf/etcdstatus"
	"github.com/pgha/terraform-provider-pgha/internal/tf/functions"
	hostresource "github.com/pgha/terraform-provider-pgha/internal/tf/host"
	"github.com/pgha/terraform-provider-pgha/internal/tf/patroniactions"
	"github.com/pgha/terraform-provider-pgha/internal/tf/patronicluster"
	"github.com/pgha/terraform-provider-pgha/internal/tf/patroninode"
	"github.com/pgha/terraform-provider-pgha/internal/tf/tunnel"
	"github.com/pgha/terraform-provider-pgha/internal/tf/upgradeplan"
	"github.com/pgha/terraform-provider-pgha/internal/tf/vip"
)

// New returns the provider. Override, if not nil, replaces parts of the
// services before they are used; tests put a fake fleet there.
func New(version string, override func(*base.Services)) func() provider.Provider {
	return func() provider.Provider { return &pgha{version: version, override: override} }
}

type pgha struct {
	version  string
	override func(*base.Services)
}

var (
	_ provider.ProviderWithEphemeralResources = &pgha{}
	_ provider.ProviderWithFunctions          = &pgha{}
	_ provider.ProviderWithActions            = &pgha{}
)

func (p *pgha) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName, resp.Version = "pgha", p.version
}

func (p *pgha) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{hostresource.New, etcdcluster.New, patronicluster.New, patroninode.New, citusgroup.New, vip.New, dnsrecord.New, crossdc.New}
}

func (p *pgha) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{clusterdata.New, citusdata.New, etcdstatus.New, hostresource.NewFacts, upgradeplan.New, crossdc.NewData}
}

func (p *pgha) EphemeralResources(context.Context) []func() ephemeral.EphemeralResource {
	return []func() ephemeral.EphemeralResource{credentialsephemeral.New, tunnel.New}
}

func (p *pgha) Actions(context.Context) []func() action.Action {
	return []func() action.Action{etcddefragment.New, patroniactions.NewReinitialize, patroniactions.NewRestart, patroniactions.NewSwitchover}
}

func (p *pgha) Functions(context.Context) []func() function.Function {
	return []func() function.Function{functions.NewConninfo, functions.NewJDBCURL}
}

// Configure builds the services. Values that are not known yet (an address or a
// key that another resource makes) are as if they were not given: nothing is
// contacted while planning with them that would need them.
func (p *pgha) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	if resp.Diagnostics.HasError() {
		return
	}
	secrets := new(redact.Set)
	s := &base.Services{
		Redact: secrets, Log: base.NewLogger(secrets), Queues: new(roll.Queues), Runner: runner(p.version),
		KeepUnreachable: m.OnUnreachable.ValueString() == "keep", Now: time.Now,
	}
	progress := m.ProgressFile.ValueString()
	if progress == "" {
		progress = os.Getenv("PGHA_PROGRESS_FILE")
	}
	var err error
	if s.Progress, err = base.OpenProgress(progress); err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("progress_file"), "Unable to open the progress file", err.Error())
		return
	}
	if p.override == nil {
		cfg := m.sshConfig(ctx, secrets, &resp.Diagnostics)
		if resp.Diagnostics.HasError() {
			return
		}
		if cfg.HostKeys.Policy == sshx.Insecure {
			resp.Diagnostics.AddAttributeWarning(path.Root("ssh").AtName("host_key_policy"), "Host keys are not checked",
				"Whoever is between this machine and the hosts can read and change everything, passwords included. Use \"strict\", or \"accept_new\" where the keys are not known beforehand.")
		}
		cfg.Logger = s.Log
		fleet, err := sshx.New(cfg)
		if err != nil {
			resp.Diagnostics.AddAttributeError(path.Root("ssh"), "Unable to configure SSH", err.Error())
			return
		}
		s.Fleet = fleet
	} else {
		p.override(s)
	}
	if s.OpenEtcd == nil {
		s.OpenEtcd = func(ctx context.Context, a etcd.Access) (etcd.Client, error) { return a.Open(ctx, s.Fleet) }
	}
	resp.ResourceData, resp.DataSourceData, resp.EphemeralResourceData, resp.ActionData = s, s, s, s
}

var _ host.Fleet = (*sshx.Fleet)(nil)

// runner says who this process is, for those who wait for its locks.
func runner(version string) string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	machine, err := os.Hostname()
	if err != nil {
		machine = "an unknown machine"
	}
	return fmt.Sprintf("%s on %s (process %d, provider %s)", name, machine, os.Getpid(), version)
}
