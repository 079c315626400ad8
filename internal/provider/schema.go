package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

func (p *pgha) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Turns Linux hosts, reached over SSH, into self-managed, highly available PostgreSQL: etcd, Patroni and PostgreSQL, planned and reviewed before anything is touched. " +
			"Only SSH has to be open between the machine that runs Terraform and the hosts.",
		Attributes: map[string]schema.Attribute{
			"on_unreachable": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "What a refresh does with something whose host cannot be reached: `error` (the default) fails, `keep` warns and goes on with the state as it was. " +
					"In neither case is anything removed or recreated.",
				Validators: []validator.String{stringvalidator.OneOf("error", "keep")},
			},
			"progress_file": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "File to which a line of JSON is appended as each step of an apply starts and ends, with the resource, the host and the step. `PGHA_PROGRESS_FILE` in the environment does the same.",
			},
		},
		Blocks: map[string]schema.Block{
			"ssh": schema.SingleNestedBlock{
				MarkdownDescription: "How hosts are reached, where a `pgha_host` does not say otherwise. Each attribute can come from the environment instead: `PGHA_SSH_USER`, `PGHA_SSH_PRIVATE_KEY_FILE` and so on.",
				Attributes: map[string]schema.Attribute{
					"user": schema.StringAttribute{
						Optional: true, MarkdownDescription: "Account to log in as; `root` by default.", Validators: []validator.String{validate.OneLine(), stringvalidator.LengthAtLeast(1)},
					},
					"port": schema.Int64Attribute{Optional: true, MarkdownDescription: "Port of the SSH servers; 22 by default.", Validators: []validator.Int64{validate.Port()}},
					"private_key": schema.StringAttribute{
						Optional: true, Sensitive: true, MarkdownDescription: "Private key in PEM form.",
						Validators: []validator.String{stringvalidator.ConflictsWith(path.MatchRelative().AtParent().AtName("private_key_file"))},
					},
					"private_key_file":       schema.StringAttribute{Optional: true, MarkdownDescription: "Path of a private key."},
					"private_key_passphrase": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Passphrase of the private key."},
					"agent": schema.BoolAttribute{
						Optional: true, MarkdownDescription: "Use the SSH agent at `SSH_AUTH_SOCK`; by default it is used if there is one and no key is given.",
					},
					"password": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Password of the account, where keys are not to be had."},
					"host_key_policy": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "`strict` (the default) connects to hosts whose key is known, `accept_new` also takes the first key of a host that is not known and keeps it in `accepted_keys_file`, `insecure` takes any key and warns each time.",
						Validators:          []validator.String{stringvalidator.OneOf("strict", "accept_new", "insecure")},
					},
					"known_hosts_file":   schema.StringAttribute{Optional: true, MarkdownDescription: "File of known host keys; `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts` by default."},
					"known_hosts":        schema.ListAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Further lines of `known_hosts`, `@cert-authority` included."},
					"accepted_keys_file": schema.StringAttribute{Optional: true, MarkdownDescription: "Where `accept_new` keeps the keys it took; `~/.config/pgha/known_hosts` by default."},
					"become": schema.StringAttribute{
						Optional: true, MarkdownDescription: "How an account other than root gets its rights: `auto` (the default: sudo, else doas), `sudo`, `doas` or `none`.",
						Validators: []validator.String{stringvalidator.OneOf("auto", "none", "sudo", "doas")},
					},
					"become_password": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Password that sudo asks for."},
					"bastions": schema.ListNestedAttribute{
						Optional: true, MarkdownDescription: "Jump hosts on the way, outermost first. Their keys are checked like the hosts' own.",
						Validators: []validator.List{listvalidator.SizeAtMost(4)},
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"host":     schema.StringAttribute{Required: true, MarkdownDescription: "Address or name.", Validators: []validator.String{validate.Address()}},
							"port":     schema.Int64Attribute{Optional: true, MarkdownDescription: "Port; 22 by default.", Validators: []validator.Int64{validate.Port()}},
							"user":     schema.StringAttribute{Optional: true, MarkdownDescription: "Account; that of the hosts by default."},
							"host_key": schema.StringAttribute{Optional: true, MarkdownDescription: "Key, as with `pgha_host`.", Validators: []validator.String{validate.OneLine()}},
						}},
					},
					"connect_timeout": schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "For TCP, the handshake and the login together; `10s` by default."},
					"boot_timeout":    schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "How long the first contact with a new host waits for it to come up; `5m` by default."},
					"max_connections": schema.Int64Attribute{Optional: true, MarkdownDescription: "How many connections are opened at once; 10 by default.", Validators: []validator.Int64{int64validator.Between(1, 1000)}},
				},
			},
		},
	}
}
