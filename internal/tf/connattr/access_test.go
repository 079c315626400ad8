package connattr

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

func access() etcd.Access {
	return etcd.Access{
		Name: "dcs", TLS: true, Auth: true, ClientPort: 2379,
		Members: map[string]etcd.Member{
			"pg1": {Address: "10.0.0.1", Target: host.Target{Name: "pg1", Address: "10.0.0.1"}},
			"pg2": {Address: "10.0.0.2", Target: host.Target{
				Name: "other", Address: "192.0.2.2", Port: 2222, User: "admin", HostKey: "ssh-ed25519 AAAA+/= x", Bastions: "a@b:1,[fd00::1]:2",
			}},
			"pg3": {Address: "fd00::3", Target: host.Target{Name: "pg3", Address: "fd00::3", Bastions: "none"}},
		},
	}
}

func TestAccessRoundTrip(t *testing.T) {
	var diags diag.Diagnostics
	ctx := context.Background()
	o := AccessObject(ctx, access(), types.StringUnknown(), &diags)
	got, ok := AccessFrom(ctx, o, &diags)
	if !ok || diags.HasError() {
		t.Fatalf("%v %v", ok, diags)
	}
	if d := cmp.Diff(access(), got); d != "" {
		t.Error(d)
	}
	members := o.Attributes()["members"].(types.Map).Elements()
	if got := members["pg1"].(types.String).ValueString(); got != "10.0.0.1" {
		t.Errorf("a plain member is written as %q", got)
	}
}

// The files of somebody else's go along, and are not there where nobody has any.
func TestAccessFiles(t *testing.T) {
	var diags diag.Diagnostics
	ctx := context.Background()
	pair := func(name string) pki.Pair {
		return pki.Pair{Certificate: "/" + name + ".crt", Key: "/" + name + ".key"}
	}
	for name, change := range map[string]func(*etcd.Access){
		"none": func(*etcd.Access) {},
		"all": func(a *etcd.Access) {
			a.Files = &etcd.Files{Server: pair("server-{name}"), Peer: pair("peer"), Client: pair("client"), Trusted: "/ca.crt"}
			a.PatroniFiles = &etcd.PatroniFiles{Pair: pair("patroni"), Trusted: "/patroni-ca.crt"}
		},
		"the server's alone":      func(a *etcd.Access) { a.Files = &etcd.Files{Server: pair("server"), Trusted: "/ca.crt"} },
		"of an adopted cluster's": func(a *etcd.Access) { a.PatroniFiles = &etcd.PatroniFiles{Pair: pair("patroni"), Trusted: "/ca.crt"} },
		"without a pair":          func(a *etcd.Access) { a.PatroniFiles = &etcd.PatroniFiles{Trusted: "/ca.crt"} },
	} {
		want := access()
		change(&want)
		o := AccessObject(ctx, want, types.StringValue("u"), &diags)
		if got := o.Attributes()["files"].IsNull(); got != (name == "none") {
			t.Errorf("%s: files are null: %v", name, got)
		}
		got, ok := AccessFrom(ctx, o, &diags)
		if d := cmp.Diff(want, got); !ok || diags.HasError() || d != "" {
			t.Errorf("%s: %v %v %s", name, ok, diags, d)
		}
	}
}

func TestMembershipRoundTrip(t *testing.T) {
	var diags diag.Diagnostics
	ctx := context.Background()
	c := patroni.Cluster{
		Scope: "main", Namespace: "/service/", UID: "abc", Etcd: access(), PostgresPort: 5432, APIPort: 8008, APIAllowlist: []string{"10.0.0.0/8"},
		Users:  patroni.Users{Superuser: "postgres", Replication: "r", Rewind: "w", API: "p"},
		Initdb: patroni.Initdb{Locale: "C.UTF-8", Encoding: "UTF8", DataChecksums: true},
	}
	a := AccessObject(ctx, c.Etcd, types.StringValue("u"), &diags)
	got, ok := ClusterFrom(ctx, MembershipObject(ctx, c, types.StringValue("abc"), a, &diags), &diags)
	if !ok || diags.HasError() {
		t.Fatalf("%v %v", ok, diags)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Error(d)
	}
}

// While a part is unknown, nothing is made of the rest.
func TestUnknown(t *testing.T) {
	var diags diag.Diagnostics
	ctx := context.Background()
	unknown := types.ObjectUnknown(AccessType.AttrTypes)
	if _, ok := AccessFrom(ctx, unknown, &diags); ok {
		t.Error("an unknown object was read")
	}
	m := MembershipObject(ctx, patroni.Cluster{}, types.StringUnknown(), unknown, &diags)
	if _, ok := ClusterFrom(ctx, m, &diags); ok {
		t.Error("a membership without a known etcd was read")
	}
	c := Connection{Name: types.StringValue("a"), Address: types.StringUnknown()}
	if _, ok := TargetFrom(ctx, c.Object(ctx, &diags), &diags); ok {
		t.Error("a connection with an unknown address was read")
	}
	if diags.HasError() {
		t.Error(diags)
	}
}
