// Package tunnel is the ephemeral resource pgha_tunnel.
package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// New returns the ephemeral resource.
func New() ephemeral.EphemeralResource { return &tunnel{} }

type tunnel struct{ base.Ephemeral }

var (
	_ ephemeral.EphemeralResourceWithConfigure = &tunnel{}
	_ ephemeral.EphemeralResourceWithClose     = &tunnel{}
)

type model struct {
	Cluster types.Object `tfsdk:"cluster"`
	Host    types.String `tfsdk:"host"`
	Port    types.Int64  `tfsdk:"port"`
}

func (t *tunnel) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_tunnel"
}

func (t *tunnel) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "An address on this machine that leads to the primary of a cluster through SSH, while Terraform runs: for a provider that manages roles and databases in the same configuration. " +
			"Each connection goes to whichever node is the primary at that moment; one that is open breaks at a switchover, and the next one leads to the new primary. " +
			"The nodes' certificates are valid for `127.0.0.1`, so that `sslmode = \"verify-full\"` works with `ca_certificate` of the cluster. Every account of this machine can connect, and needs a password as everywhere.",
		Attributes: map[string]schema.Attribute{
			"cluster": schema.ObjectAttribute{Required: true, AttributeTypes: connattr.MembershipType.AttrTypes, MarkdownDescription: "The cluster: `membership` of a `pgha_patroni_cluster`. Its nodes have to be there: use it where something depends on them."},
			"host":    schema.StringAttribute{Computed: true, MarkdownDescription: "`127.0.0.1`."},
			"port":    schema.Int64Attribute{Computed: true, MarkdownDescription: "The port, another one each time."},
		},
	}
}

// key is where the private data of a tunnel says which one it is.
const key = "address"

// open are the tunnels of this process, by the address that they listen on.
var open sync.Map

// Open listens. Nothing is dialled before somebody connects: in a plan, the cluster may be
// only to come.
func (t *tunnel) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	cluster, ok := connattr.ClusterFrom(ctx, m.Cluster, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if !ok {
		resp.Diagnostics.AddError("Unable to open tunnel", "How to reach the cluster is not known.")
		return
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		resp.Diagnostics.AddError("Unable to open tunnel to cluster "+cluster.Name(), "No port of this machine could be opened: "+err.Error()+".")
		return
	}
	// It serves after this call has returned.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &server{Listener: l, cancel: cancel, cluster: cluster, manager: t.S.Patroni("pgha_tunnel " + cluster.Name())}
	open.Store(l.Addr().String(), s)
	s.running.Go(func() { s.serve(ctx) })
	m.Host, m.Port = types.StringValue("127.0.0.1"), types.Int64Value(int64(l.Addr().(*net.TCPAddr).Port))
	resp.Diagnostics.Append(resp.Result.Set(ctx, &m)...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, key, []byte(`"`+l.Addr().String()+`"`))...)
}

// Close ends the tunnel with all that goes through it.
func (t *tunnel) Close(ctx context.Context, req ephemeral.CloseRequest, resp *ephemeral.CloseResponse) {
	text, diags := req.Private.GetKey(ctx, key)
	resp.Diagnostics.Append(diags...)
	if len(text) < 2 {
		return
	}
	if s, ok := open.LoadAndDelete(string(text[1 : len(text)-1])); ok {
		s.(*server).close()
	}
}

// server is an open tunnel.
type server struct {
	net.Listener
	cancel  context.CancelFunc
	cluster patroni.Cluster
	manager *patroni.Manager
	running sync.WaitGroup
}

func (s *server) close() {
	s.cancel()
	_ = s.Listener.Close()
	s.running.Wait()
}

func (s *server) serve(ctx context.Context) {
	for {
		local, err := s.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// Out of file descriptors, perhaps; some may be free again later.
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		default:
			s.running.Go(func() { s.connect(ctx, local) })
		}
	}
}

// connect joins a connection with one to the primary, until either ends.
func (s *server) connect(ctx context.Context, local net.Conn) {
	defer func() { _ = local.Close() }()
	far, name, err := s.manager.DialPrimary(ctx, s.cluster)
	if err != nil {
		s.manager.Log.WarnContext(ctx, "a connection through the tunnel leads nowhere", "cluster", s.cluster.Name(), "error", err)
		return
	}
	defer func() { _ = far.Close() }()
	s.manager.Log.DebugContext(ctx, "a connection through the tunnel", "cluster", s.cluster.Name(), "to", name)
	ended := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		ended <- struct{}{}
	}
	go pipe(far, local)
	go pipe(local, far)
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
