// Package etcdstatus is the data source pgha_etcd_status.
package etcdstatus

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/datasource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
)

// New returns the data source.
func New() datasource.DataSource { return &etcdStatus{} }

type etcdStatus struct{ base.DataSource }

// readTimeout is the default.
const readTimeout = 2 * time.Minute

var _ datasource.DataSourceWithConfigure = &etcdStatus{}

type model struct {
	Etcd      types.Object   `tfsdk:"etcd"`
	ClusterID types.String   `tfsdk:"cluster_id"`
	Leader    types.String   `tfsdk:"leader"`
	Healthy   types.Bool     `tfsdk:"healthy"`
	Members   []memberModel  `tfsdk:"members"`
	Snapshot  *snapshotModel `tfsdk:"snapshot"`
	Table     types.String   `tfsdk:"table"`
	Warnings  []string       `tfsdk:"warnings"`
	Timeouts  timeouts.Value `tfsdk:"timeouts"`
}

type memberModel struct {
	Name      types.String `tfsdk:"name"`
	ID        types.String `tfsdk:"id"`
	Address   types.String `tfsdk:"address"`
	PeerURLs  []string     `tfsdk:"peer_urls"`
	Role      types.String `tfsdk:"role"`
	Voter     types.Bool   `tfsdk:"voter"`
	Version   types.String `tfsdk:"version"`
	Healthy   types.Bool   `tfsdk:"healthy"`
	Problem   types.String `tfsdk:"problem"`
	Lag       types.Int64  `tfsdk:"lag"`
	DBSize    types.Int64  `tfsdk:"db_size"`
	InUse     types.Int64  `tfsdk:"db_size_in_use"`
	Quota     types.Int64  `tfsdk:"quota"`
	Alarms    []string     `tfsdk:"alarms"`
	Server    types.String `tfsdk:"server_certificate_expires"`
	Peer      types.String `tfsdk:"peer_certificate_expires"`
	Authority types.String `tfsdk:"ca_certificate_expires"`
	Snapshots snapshots    `tfsdk:"snapshots"`
	Error     types.String `tfsdk:"error"`
}

// snapshots is what there is of them on a member's host; null values if that
// could not be asked.
type snapshots struct {
	Scheduled types.Bool   `tfsdk:"scheduled"`
	Failed    types.Bool   `tfsdk:"failed"`
	Directory types.String `tfsdk:"directory"`
	Count     types.Int64  `tfsdk:"count"`
	Size      types.Int64  `tfsdk:"size"`
	Newest    types.String `tfsdk:"newest"`
}

// snapshotModel is one snapshot.
type snapshotModel struct {
	Member types.String `tfsdk:"member"`
	Path   types.String `tfsdk:"path"`
	Size   types.Int64  `tfsdk:"size"`
	Time   types.String `tfsdk:"time"`
	Age    types.Int64  `tfsdk:"age"`
}

func (d *etcdStatus) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_etcd_status"
}

func (d *etcdStatus) Schema(ctx context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	text := func(s string) schema.Attribute { return schema.StringAttribute{Computed: true, MarkdownDescription: s} }
	number := func(s string) schema.Attribute { return schema.Int64Attribute{Computed: true, MarkdownDescription: s} }
	boolean := func(s string) schema.Attribute { return schema.BoolAttribute{Computed: true, MarkdownDescription: s} }
	texts := func(s string) schema.Attribute {
		return schema.ListAttribute{ElementType: types.StringType, Computed: true, MarkdownDescription: s}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "An etcd cluster as it is now: who leads, how each member is, how full its database is, and when certificates end. These facts change by themselves and are therefore in no resource. " +
			"Outputs made of them change as well. A member that does not answer, or whose host cannot be reached, is shown as such; it is an error only if no host can be reached.",
		Attributes: map[string]schema.Attribute{
			"etcd":       schema.ObjectAttribute{Required: true, AttributeTypes: connattr.AccessType.AttrTypes, MarkdownDescription: "The cluster: `access` of a `pgha_etcd_cluster`."},
			"cluster_id": text("etcd's own id of the cluster, in hexadecimal digits; null if no member answers."),
			"leader":     text("Name of the member that leads; null if none does."),
			"healthy":    boolean("Whether the cluster accepts writes, and all its members are healthy."),
			"members": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "The members, in the order of their names; those that the cluster has and that were not given come last.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"name":                       text("Name; null if it has never started, and was not given."),
					"id":                         text("etcd's own id of the member, in hexadecimal digits; null if it is not known."),
					"address":                    text("Address and port for clients."),
					"peer_urls":                  texts("Where the other members reach it."),
					"role":                       text("`leader`, `follower` or `learner`; null if it is not known."),
					"voter":                      boolean("Whether it counts for the quorum: any member of the cluster but a learner. Null if it is not known."),
					"version":                    text("Version that runs; if it does not answer, the version that is installed."),
					"healthy":                    boolean("Whether nothing is wrong with it."),
					"problem":                    text("What is wrong with it; null if it is healthy."),
					"lag":                        number("Number of entries of the log that it has still to apply, compared with the member that is furthest; null if it does not answer."),
					"db_size":                    number("Size of its database in bytes; null if it does not answer."),
					"db_size_in_use":             number("How much of that is in use, in bytes. Defragmenting gives back the rest."),
					"quota":                      number("Size in bytes at which it refuses writes; null if it does not run."),
					"alarms":                     texts("Alarms that it has raised: `NOSPACE` (its database has reached the quota) or `CORRUPT` (its data differs from the others'). Either keeps the whole cluster from accepting writes."),
					"server_certificate_expires": text("When the certificate for clients ends, as in `2027-12-30T10:20:30Z`; null without TLS, or if its host cannot be reached."),
					"peer_certificate_expires":   text("When the certificate for the other members ends."),
					"ca_certificate_expires":     text("When the certificate of the authority that it trusts ends."),
					"snapshots": schema.SingleNestedAttribute{
						Computed: true, MarkdownDescription: "Snapshots on its host.", Attributes: map[string]schema.Attribute{
							"scheduled": boolean("Whether its host takes snapshots by a timer, when it is its turn; null if it could not be asked."),
							"failed":    boolean("Whether the last attempt to take one there failed."),
							"directory": text("Where they are."),
							"count":     number("How many there are."),
							"size":      number("Size of all of them in bytes."),
							"newest":    text("When the newest was taken, as in `2027-12-30T10:20:30Z`; null if there is none."),
						},
					},
					"error": text("Why its host could not be asked; null if it could."),
				}},
			},
			"snapshot": schema.SingleNestedAttribute{
				Computed: true, MarkdownDescription: "The newest snapshot on any of the hosts; null if there is none. See `snapshots` of `pgha_etcd_cluster`.", Attributes: map[string]schema.Attribute{
					"member": text("Name of the member on whose host it is."),
					"path":   text("Where it is there."),
					"size":   number("Size in bytes."),
					"time":   text("When it was taken, as in `2027-12-30T10:20:30Z`."),
					"age":    number("Age in seconds."),
				},
			},
			"table":    text("The members as a table, for people."),
			"warnings": texts("What is wrong with the whole, such as a missing quorum, an alarm, or a database close to its quota."),
		},
		Blocks: map[string]schema.Block{"timeouts": timeouts.BlockWithOpts(ctx, timeouts.Opts{ReadDescription: base.ReadTimeoutText(readTimeout)})},
	}
}

func (d *etcdStatus) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var m model
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	a, ok := connattr.AccessFrom(ctx, m.Etcd, &resp.Diagnostics)
	if resp.Diagnostics.HasError() {
		return
	}
	if !ok {
		resp.Diagnostics.AddError("Unable to read etcd cluster", "How to reach it is not known.")
		return
	}
	timeout, diags := m.Timeouts.Read(ctx, readTimeout)
	resp.Diagnostics.Append(diags...)
	ctx, cancel := base.WithTimeout(ctx, timeout, "read")
	defer cancel()
	v, err := a.View(ctx, d.S.Fleet, d.S.Etcd)
	if err != nil {
		d.S.Fail(&resp.Diagnostics, "Unable to read etcd cluster "+a.Name, err)
		return
	}
	m.fill(v, d.S.Now(), d.S.Redact.Apply)
	resp.Diagnostics.Append(resp.State.Set(ctx, &m)...)
}

// fill fills the model with what was found; clean takes secrets out of what
// others have said.
func (m *model) fill(v etcd.View, now time.Time, clean func(string) string) {
	m.ClusterID, m.Leader = id(v.ClusterID), text(v.Leader)
	m.Table = types.StringValue(clean(v.Table()))
	m.Warnings = append([]string{}, v.Warnings...)
	if member, s, ok := v.Newest(); ok {
		m.Snapshot = &snapshotModel{
			Member: types.StringValue(member), Path: types.StringValue(s.Path), Size: types.Int64Value(s.Size), Time: at(s.Time), Age: types.Int64Value(int64(now.Sub(s.Time).Seconds())),
		}
	}
	healthy := v.Leader != ""
	m.Members = []memberModel{}
	for _, mv := range v.Members {
		healthy = healthy && mv.Healthy()
		mm := memberModel{
			Name: text(mv.Name), ID: id(mv.ID), Address: text(mv.Address), PeerURLs: append([]string{}, mv.Peers...), Role: text(mv.Role), Voter: types.BoolNull(),
			Version: text(mv.Version), Healthy: types.BoolValue(mv.Healthy()), Problem: text(clean(mv.Problem)),
			Lag: number(mv.Lag, 0), DBSize: number(mv.DBSize, 0), InUse: number(mv.InUse, 0), Quota: number(mv.Quota, 1),
			Alarms: append([]string{}, mv.Alarms...), Snapshots: snapshotsOf(mv), Server: at(mv.Server), Peer: at(mv.Peer), Authority: at(mv.Authority), Error: text(clean(mv.Error)),
		}
		if mv.Known {
			mm.Voter = types.BoolValue(mv.Role != etcd.RoleLearner)
		}
		m.Members = append(m.Members, mm)
	}
	m.Healthy = types.BoolValue(healthy)
}

func snapshotsOf(mv etcd.MemberView) snapshots {
	v := mv.Snapshots
	if v.Directory == "" {
		return snapshots{}
	}
	s := snapshots{Scheduled: types.BoolValue(v.Scheduled), Failed: types.BoolValue(v.Failed), Directory: types.StringValue(v.Directory), Count: types.Int64Value(int64(len(v.Files)))}
	var size int64
	for _, f := range v.Files {
		size += f.Size
	}
	s.Size = types.Int64Value(size)
	if f, ok := v.Newest(); ok {
		s.Newest = at(f.Time)
	}
	return s
}

func text(s string) types.String {
	if s == "" {
		return types.StringNull()
	}
	return types.StringValue(s)
}

// id renders an id as etcd's own tools do.
func id(n uint64) types.String {
	if n == 0 {
		return types.StringNull()
	}
	return types.StringValue(strconv.FormatUint(n, 16))
}

// number is a number that is known if it is at least the given one.
func number(n, least int64) types.Int64 {
	if n < least {
		return types.Int64Null()
	}
	return types.Int64Value(n)
}

func at(t time.Time) types.String {
	if t.IsZero() {
		return types.StringNull()
	}
	return types.StringValue(t.Format(time.RFC3339))
}
