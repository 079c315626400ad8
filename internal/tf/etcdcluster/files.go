package etcdcluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// Certificates that somebody else makes and renews, as files on hosts.

type pairModel struct {
	Certificate types.String `tfsdk:"certificate"`
	Key         types.String `tfsdk:"key"`
}

type peerModel struct {
	Certificate types.String `tfsdk:"certificate"`
	Key         types.String `tfsdk:"key"`
	CommonName  types.String `tfsdk:"common_name"`
}

type filesModel struct {
	Server  pairModel    `tfsdk:"server"`
	Peer    types.Object `tfsdk:"peer"`
	Client  types.Object `tfsdk:"client"`
	Trusted types.String `tfsdk:"trusted"`
}

type patroniFilesModel struct {
	Certificate types.String `tfsdk:"certificate"`
	Key         types.String `tfsdk:"key"`
	Trusted     types.String `tfsdk:"trusted"`
}

var (
	pairType = map[string]attr.Type{"certificate": types.StringType, "key": types.StringType}
	peerType = map[string]attr.Type{"certificate": types.StringType, "key": types.StringType, "common_name": types.StringType}

	filesType = map[string]attr.Type{
		"server": types.ObjectType{AttrTypes: pairType}, "peer": types.ObjectType{AttrTypes: peerType}, "client": types.ObjectType{AttrTypes: pairType}, "trusted": types.StringType,
	}
	patroniFilesType = map[string]attr.Type{"certificate": types.StringType, "key": types.StringType, "trusted": types.StringType}
)

func fileAttribute(required bool, what string) schema.Attribute {
	return schema.StringAttribute{
		Required: required, Optional: !required, MarkdownDescription: what,
		Validators: []validator.String{validate.Text("must be a whole path, in a folder that services can see", etcd.CheckFilePath)},
	}
}

func filesAttributes() map[string]schema.Attribute {
	pair := func(readers string) map[string]schema.Attribute {
		return map[string]schema.Attribute{
			"certificate": fileAttribute(true, "The certificate, in PEM, with those between it and the authority behind it."),
			"key":         fileAttribute(true, "Its key, in PEM, without a password. "+readers),
		}
	}
	const reader = "The user `etcd` has to be able to read it."
	peer := pair(reader)
	peer["common_name"] = schema.StringAttribute{
		Optional: true, MarkdownDescription: "The common name that the peers' certificates of all members have, and nobody else's. Members then take part in the cluster by that name alone. Without it they take whoever has a certificate of the authorities that is good for the address it comes from. Changing this restarts the members, one at a time.",
		Validators: []validator.String{validate.Text("must have 1 to 64 characters without quotes", checkCommonName)},
	}
	return map[string]schema.Attribute{
		"server": schema.SingleNestedAttribute{
			Required: true, Attributes: pair(reader),
			MarkdownDescription: "With which a member serves its clients: good for its address, for servers (`serverAuth`), and for clients (`clientAuth`) unless `client` is given and etcd is 3.5: etcd comes to itself with it, for Patroni.",
		},
		"peer": schema.SingleNestedAttribute{
			Optional: true, Attributes: peer,
			MarkdownDescription: "With which the members speak to each other: good for the member's address, for servers and for clients. The server's unless given.",
		},
		"client": schema.SingleNestedAttribute{
			Optional: true, Attributes: pair(reader),
			MarkdownDescription: "With which the provider, from the member's host, and the timer of the snapshots come to etcd: good for clients. The server's unless given.",
		},
		"trusted": fileAttribute(true, "The certificates of the authorities of all these, in PEM: while one is being replaced, the old and the new one. etcd reads it only when it starts: when other certificates are in it, the plan shows it, and an apply restarts the members, one at a time, the leader last."),
	}
}

func patroniFilesAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"certificate": fileAttribute(false, "The certificate, in PEM, good for clients (`clientAuth`), and with `auth` without a common name: etcd answers no Patroni then that has one. It may be left out only of an imported cluster that asks clients for none."),
		"key":         fileAttribute(false, "Its key, in PEM, without a password. The user `postgres` has to be able to read it."),
		"trusted":     fileAttribute(true, "The certificates of the authorities of etcd's members, in PEM."),
	}
}

func checkCommonName(s string) error {
	if s == "" || len(s) > 64 || strings.ContainsAny(s, "\"\\$`\n") {
		return fmt.Errorf("%q cannot be the common name here", s)
	}
	return nil
}

// object reads a nested object if it is there.
func object(ctx context.Context, o types.Object, into any, diags *diag.Diagnostics) bool {
	if o.IsNull() || o.IsUnknown() {
		return false
	}
	diags.Append(o.As(ctx, into, basetypes.ObjectAsOptions{})...)
	return true
}

func (p pairModel) pair() pki.Pair {
	return pki.Pair{Certificate: p.Certificate.ValueString(), Key: p.Key.ValueString()}
}

// files reads what is said of somebody else's files into the spec.
func (c certificatesModel) files(ctx context.Context, s *etcd.Spec, diags *diag.Diagnostics) {
	var f filesModel
	if object(ctx, c.Files, &f, diags) {
		s.Files = &etcd.Files{Server: f.Server.pair(), Trusted: f.Trusted.ValueString()}
		var peer peerModel
		if object(ctx, f.Peer, &peer, diags) {
			s.Files.Peer = pki.Pair{Certificate: peer.Certificate.ValueString(), Key: peer.Key.ValueString()}
			s.Files.PeerName = peer.CommonName.ValueString()
		}
		var client pairModel
		if object(ctx, f.Client, &client, diags) {
			s.Files.Client = client.pair()
		}
	}
	var p patroniFilesModel
	if object(ctx, c.PatroniFiles, &p, diags) {
		s.PatroniFiles = &etcd.PatroniFiles{Pair: pki.Pair{Certificate: p.Certificate.ValueString(), Key: p.Key.ValueString()}, Trusted: p.Trusted.ValueString()}
	}
}

// certificatesOf is the attribute of a cluster that was found.
func certificatesOf(ctx context.Context, f *etcd.Files, diags *diag.Diagnostics) types.Object {
	if f == nil {
		return noCertificates()
	}
	object := func(t map[string]attr.Type, v any) types.Object {
		o, d := types.ObjectValueFrom(ctx, t, v)
		diags.Append(d...)
		return o
	}
	pair := func(p pki.Pair) pairModel {
		return pairModel{Certificate: types.StringValue(p.Certificate), Key: types.StringValue(p.Key)}
	}
	m := filesModel{Server: pair(f.Server), Peer: types.ObjectNull(peerType), Client: types.ObjectNull(pairType), Trusted: types.StringValue(f.Trusted)}
	if f.Peer != (pki.Pair{}) {
		peer := peerModel{Certificate: types.StringValue(f.Peer.Certificate), Key: types.StringValue(f.Peer.Key)}
		if f.PeerName != "" {
			peer.CommonName = types.StringValue(f.PeerName)
		}
		m.Peer = object(peerType, peer)
	}
	if f.Client != (pki.Pair{}) {
		m.Client = object(pairType, pair(f.Client))
	}
	return object(certificatesType, certificatesModel{Files: object(filesType, m), PatroniFiles: types.ObjectNull(patroniFilesType)})
}

var filesPath = path.Root("certificates").AtName("files")

// checkFilesConfig refuses what cannot be together.
func checkFilesConfig(ctx context.Context, c map[string]attr.Value, diags *diag.Diagnostics) {
	at := path.Root("certificates")
	if !c["files"].IsNull() {
		for _, name := range []string{"renew_before", "authority"} {
			if !c[name].IsNull() {
				diags.AddAttributeError(at.AtName(name), "Certificates that somebody else makes",
					"With certificates.files this provider makes and renews no certificate of etcd: whoever makes the files does.\nWhat to do: remove "+name+", or files.")
			}
		}
	}
	var p patroniFilesModel
	if o, ok := c["patroni_files"].(types.Object); !ok || !object(ctx, o, &p, diags) {
		return
	}
	paired := p.Certificate.IsNull() == p.Key.IsNull()
	if !paired || p.Certificate.IsNull() && !c["files"].IsNull() {
		diags.AddAttributeError(at.AtName("patroni_files"), "A certificate and its key",
			"Patroni comes to etcd with a certificate, for which it needs the key, too.\nWhat to do: give both certificate and key.")
	}
}

// checkKind refuses to give a cluster that is there certificates of the other kind, and
// Patroni other files than it has read.
func checkKind(ctx context.Context, before, m model, diags *diag.Diagnostics) {
	var old, now etcd.Spec
	if !before.certificates(ctx, &old, diags) || !m.certificates(ctx, &now, diags) {
		return
	}
	if (old.Files == nil) != (now.Files == nil) {
		diags.AddAttributeError(filesPath, "The kind of certificates of etcd cluster "+m.Name.ValueString()+" cannot be changed",
			"A cluster keeps the kind of certificates that it was made with: of this provider's authority, or files that somebody else makes. Nothing was touched.\nWhat to do: "+etcd.OtherKind)
	}
	if a, b := old.PatroniFiles, now.PatroniFiles; a != nil && b != nil && *a != *b {
		diags.AddAttributeError(path.Root("certificates").AtName("patroni_files"), "Patroni reads only when it starts where its files are",
			"Its nodes run with the files that were named before, and this release does not restart them for others. Nothing was touched.\nWhat to do: keep the paths; put other files there, or links to them. What is in them may change at any time.")
	}
}

// lookTimeout bounds what the plan of a new cluster waits for hosts that may not be
// there yet.
const lookTimeout = 8 * time.Second

// checkFilesThere refuses files that are wrong on the hosts of a cluster that is to be
// made, as far as these can be asked; the apply asks all of them.
func (r *etcdResource) checkFilesThere(ctx context.Context, s etcd.Spec, diags *diag.Diagnostics) {
	if s.Files == nil && s.PatroniFiles != nil && s.TLS {
		diags.AddAttributeError(path.Root("certificates").AtName("patroni_files"), "This provider makes the certificates of etcd cluster "+s.Name,
			"It makes those of Patroni's nodes as well.\nWhat to do: remove patroni_files, or bring all of the cluster's certificates (files).")
	}
	if s.Files == nil || r.S == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := r.S.EtcdReader("pgha_etcd_cluster "+s.Name).CheckFiles(ctx, s); err != nil {
		diags.AddAttributeError(filesPath, "etcd cluster "+s.Name+" cannot run with these files", r.S.Redact.Apply(problem.Details(err)))
	}
}

// warnOverdue tells of certificates that somebody else should have renewed.
func warnOverdue(name string, lines []string, diags *diag.Diagnostics) {
	if len(lines) > 0 {
		diags.AddAttributeWarning(filesPath, "Certificates of etcd cluster "+name+" end soon",
			strings.Join(lines, ".\n")+".\nWhen they have ended, no member and no client can connect anew.\nWhat to do: "+etcd.SomebodyElse+". A renewed certificate needs neither a restart nor an apply.")
	}
}
