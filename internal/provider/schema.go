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
		MarkdownDescription: "Turns Debian hosts, reached over SSH, into PostgreSQL clusters with automatic failover: etcd, Patroni and PostgreSQL. What a change does to running members is in the plan. " +
			"Only SSH has to be open between the machine that runs Terraform and the hosts.",
		Attributes: map[string]schema.Attribute{
			"on_unreachable": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "What a refresh does with something whose host cannot be reached: `error` (the default) fails, `keep` warns and goes on with the state as it was. " +
					"In neither case is anything removed or recreated. An apply that has to reach the host fails either way.",
				Validators: []validator.String{stringvalidator.OneOf("error", "keep")},
			},
			"progress_file": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "File to which a line of JSON is appended as each step of an apply starts and ends, with the resource, the host and the step. `PGHA_PROGRESS_FILE` in the environment does the same.",
			},
		},
		Blocks: map[string]schema.Block{
			"ssh": schema.SingleNestedBlock{
				MarkdownDescription: "How hosts are reached, where a `pgha_host` does not say otherwise. Where an attribute is not set, the environment counts: `PGHA_SSH_USER`, `PGHA_SSH_PRIVATE_KEY_FILE` and so on, for all but `known_hosts`.",
				Attributes: map[string]schema.Attribute{
					"user": schema.StringAttribute{
						Optional: true, MarkdownDescription: "Account to log in as; `root` by default.", Validators: []validator.String{validate.OneLine(), stringvalidator.LengthAtLeast(1)},
					},
					"port": schema.Int64Attribute{Optional: true, MarkdownDescription: "Port of the SSH servers; 22 by default.", Validators: []validator.Int64{validate.Port()}},
					"private_key": schema.StringAttribute{
						Optional: true, Sensitive: true, MarkdownDescription: "Private key itself, in PEM or OpenSSH form. Conflicts with `private_key_file`.",
						Validators: []validator.String{stringvalidator.ConflictsWith(path.MatchRelative().AtParent().AtName("private_key_file"))},
					},
					"private_key_file":       schema.StringAttribute{Optional: true, MarkdownDescription: "Path of a private key. A certificate beside it, in a file of the same name with `-cert.pub` at the end, is used as well."},
					"private_key_passphrase": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Passphrase of the private key; none by default."},
					"agent": schema.BoolAttribute{
						Optional: true, MarkdownDescription: "Use the SSH agent at `SSH_AUTH_SOCK`; by default it is used if there is one and neither a key nor a password is given.",
					},
					"password": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Password of the account to log in as, where keys cannot be used; none by default."},
					"host_key_policy": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "`strict` (the default) connects to hosts whose key is known, `accept_new` also takes the first key of a host that is not known and keeps it in `accepted_keys_file`, `insecure` takes any key, for tests only.",
						Validators:          []validator.String{stringvalidator.OneOf("strict", "accept_new", "insecure")},
					},
					"known_hosts_file":   schema.StringAttribute{Optional: true, MarkdownDescription: "File of known host keys, which is only read; `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts` by default."},
					"known_hosts":        schema.ListAttribute{ElementType: types.StringType, Optional: true, MarkdownDescription: "Further lines in the form of `known_hosts`; `@cert-authority` and `@revoked` work, too."},
					"accepted_keys_file": schema.StringAttribute{Optional: true, MarkdownDescription: "File in which `accept_new` keeps the keys that it accepted; by default `pgha/known_hosts` in the user's configuration folder, on Linux `~/.config`."},
					"become": schema.StringAttribute{
						Optional: true, MarkdownDescription: "How an account other than root becomes root: `auto` (the default: sudo, else doas), `sudo`, `doas`, or `none` for an account that has root's rights already.",
						Validators: []validator.String{stringvalidator.OneOf("auto", "none", "sudo", "doas")},
					},
					"become_password": schema.StringAttribute{Optional: true, Sensitive: true, MarkdownDescription: "Password that sudo asks for; none by default. doas cannot be given one: it needs `nopass`."},
					"bastions": schema.ListNestedAttribute{
						Optional: true, MarkdownDescription: "Jump hosts on the way, outermost first, four at most; none by default. Their keys are checked like the hosts' own. `PGHA_SSH_BASTIONS` is a comma-separated list of `[user@]host[:port]`.",
						Validators: []validator.List{listvalidator.SizeAtMost(4)},
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"host":     schema.StringAttribute{Required: true, MarkdownDescription: "Address or name.", Validators: []validator.String{validate.JumpHost()}},
							"port":     schema.Int64Attribute{Optional: true, MarkdownDescription: "Port; 22 by default.", Validators: []validator.Int64{validate.Port()}},
							"user":     schema.StringAttribute{Optional: true, MarkdownDescription: "Account to log in as; the `user` above by default."},
							"host_key": schema.StringAttribute{Optional: true, MarkdownDescription: "The jump host's key, in the form that `ssh.host_key` of a `pgha_host` has. Without it `known_hosts` counts.", Validators: []validator.String{validate.OneLine()}},
						}},
					},
					"connect_timeout": schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "How long a connection may take to be made: TCP, the handshake and the login together; `10s` by default."},
					"boot_timeout":    schema.StringAttribute{CustomType: customtypes.DurationType, Optional: true, MarkdownDescription: "How long creating a resource waits for its host to come up: through refused connections, rejected logins and cloud-init; `5m` by default."},
					"max_connections": schema.Int64Attribute{Optional: true, MarkdownDescription: "How many connections may be in the making at the same time; 10 by default, 1 to 1000. Lower it where a bastion or a firewall drops bursts.", Validators: []validator.Int64{int64validator.Between(1, 1000)}},
				},
			},
		},
	}
}
