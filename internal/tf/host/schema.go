package host

import (
	"context"
	"regexp"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/mapdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/objectdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/pgha/terraform-provider-pgha/internal/tf/base"
	"github.com/pgha/terraform-provider-pgha/internal/tf/connattr"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
	"github.com/pgha/terraform-provider-pgha/internal/tf/validate"
)

// defaultSysctl is what a PostgreSQL server is better off with: little
// swapping, and dirty pages written early instead of in bursts of gigabytes.
var defaultSysctl = map[string]attr.Value{
	"vm.swappiness":             types.StringValue("1"),
	"vm.dirty_background_bytes": types.StringValue("67108864"),
	"vm.dirty_bytes":            types.StringValue("536870912"),
}

var defaultPorts = []attr.Value{
	types.Int64Value(2379), types.Int64Value(2380), types.Int64Value(5432), types.Int64Value(8008),
}

var preflightTypes = map[string]attr.Type{
	"enforce": types.StringType, "min_cpus": types.Int64Type, "min_memory": customtypes.SizeType, "min_disk": customtypes.SizeType,
	"disk_path": types.StringType, "max_clock_skew": customtypes.DurationType, "max_lookup": customtypes.DurationType,
	"free_ports": types.ListType{ElemType: types.Int64Type},
}

var defaultPreflight = types.ObjectValueMust(preflightTypes, map[string]attr.Value{
	"enforce": types.StringValue("error"), "min_cpus": types.Int64Value(1),
	"min_memory": customtypes.SizeValue(512 << 20), "min_disk": customtypes.SizeValue(1 << 30),
	"disk_path": types.StringValue("/var/lib"), "max_clock_skew": mustDuration("1s"), "max_lookup": mustDuration("1s"),
	"free_ports": types.ListValueMust(types.Int64Type, defaultPorts),
})

var sysctlKey = regexp.MustCompile(`^[a-z0-9_]+([./][A-Za-z0-9_-]+)+$`)

var repositoryName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func (r *hostResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	size := func(text string, bytes int64) schema.StringAttribute {
		return schema.StringAttribute{
			CustomType: customtypes.SizeType, Optional: true, Computed: true,
			Default: stringdefault.StaticString(customtypes.FormatSize(bytes)), MarkdownDescription: text,
		}
	}
	duration := func(text, value string) schema.StringAttribute {
		return schema.StringAttribute{
			CustomType: customtypes.DurationType, Optional: true, Computed: true,
			Default: stringdefault.StaticString(value), MarkdownDescription: text,
		}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A Debian host, made ready for a database: package repositories, kernel settings, limits, time and names. " +
			"Before anything is changed the host is checked (`preflight`). Destroying the resource undoes what it changed; databases are not touched.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "The host's name for people, in plans, errors and logs. Changing this replaces the resource: what it set on the host is undone and set again.",
				Validators:          []validator.String{validate.Name()},
				PlanModifiers:       []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"address": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "The IP address or name at which SSH, the other hosts and clients reach the host, without a port. The address of an etcd member cannot be changed in this release.",
				Validators:          []validator.String{validate.Address()},
			},
			"ssh": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "How this host is reached, where it differs from the provider's `ssh` block.",
				Attributes: map[string]schema.Attribute{
					"port": schema.Int64Attribute{
						Optional: true, MarkdownDescription: "Port of the SSH server; that of the provider by default.",
						Validators: []validator.Int64{validate.Port()},
					},
					"user": schema.StringAttribute{
						Optional: true, MarkdownDescription: "Account to log in as; that of the provider by default.",
						Validators: []validator.String{stringvalidator.LengthBetween(1, 64), validate.OneLine()},
					},
					"host_key": schema.StringAttribute{
						Optional: true, MarkdownDescription: "The host's key, as a line of `authorized_keys` form (`ssh-ed25519 AAAA...`) or a fingerprint (`SHA256:...`). Without it `known_hosts` counts.",
						Validators: []validator.String{validate.OneLine()},
					},
					"bastions": schema.ListAttribute{
						ElementType: types.StringType, Optional: true,
						MarkdownDescription: "Jump hosts on the way, outermost first, each `[user@]host[:port]`; those of the provider by default, an empty list is a direct connection.",
						Validators:          []validator.List{listvalidator.ValueStringsAre(stringvalidator.RegexMatches(regexp.MustCompile(`^[^\s,]+$`), "must have the form [user@]host[:port]"))},
					},
				},
			},
			"preflight": schema.SingleNestedAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "What the host must have, besides being Debian 12 or 13 with systemd. It is checked on create and update, before anything is changed; each finding names the host, what was found and what is needed.",
				Default:             objectdefault.StaticValue(defaultPreflight),
				Attributes: map[string]schema.Attribute{
					"enforce": schema.StringAttribute{
						Optional: true, Computed: true, Default: stringdefault.StaticString("error"),
						MarkdownDescription: "What a finding leads to: `error` (the default) stops before anything is changed, `warn` goes on, `off` checks nothing.",
						Validators:          []validator.String{stringvalidator.OneOf("error", "warn", "off")},
					},
					"min_cpus": schema.Int64Attribute{
						Optional: true, Computed: true, Default: int64default.StaticInt64(1),
						MarkdownDescription: "Least number of CPUs; 1 by default.", Validators: []validator.Int64{int64validator.AtLeast(1)},
					},
					"min_memory":     size("Least amount of memory; `512MiB` by default.", 512<<20),
					"min_disk":       size("Least amount of free space at `disk_path`; `1GiB` by default.", 1<<30),
					"disk_path":      schema.StringAttribute{Optional: true, Computed: true, Default: stringdefault.StaticString("/var/lib"), MarkdownDescription: "Folder where free space is measured; `/var/lib` by default.", Validators: []validator.String{validate.AbsolutePath()}},
					"max_clock_skew": duration("How far the host's clock may be from that of the machine that runs Terraform, and so at most twice that from another host's; `1s` by default.", "1s"),
					"max_lookup":     duration("How long a reverse look-up of the host's own address may take; `1s` by default. Patroni does one at every start, and a resolver that does not answer costs it ten seconds each time.", "1s"),
					"free_ports": schema.ListAttribute{
						ElementType: types.Int64Type, Optional: true, Computed: true,
						Default:             listdefault.StaticValue(types.ListValueMust(types.Int64Type, defaultPorts)),
						MarkdownDescription: "TCP ports on which nothing may listen when the host is first prepared; 2379, 2380, 5432 and 8008 by default.",
						Validators:          []validator.List{listvalidator.ValueInt64sAre(validate.Port())},
					},
				},
			},
			"apt": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "Where the host gets its packages from, besides the repositories that it has. A change rewrites the files and renews the package lists; nothing is upgraded.",
				Attributes: map[string]schema.Attribute{
					"repositories": schema.MapNestedAttribute{
						Optional:            true,
						MarkdownDescription: "Package repositories by name; each becomes `/etc/apt/sources.list.d/pgha-NAME.sources`. For air-gapped sites name a mirror, or a folder with a `file:` URL.",
						Validators:          []validator.Map{mapvalidator.KeysAre(stringvalidator.RegexMatches(repositoryName, "must have only lower-case letters, digits, '_' and '-'"))},
						NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
							"uris":             required("Addresses, such as `https://mirror.example.com/debian` or `file:/srv/mirror`."),
							"suites":           required("Suites, such as `trixie`; a path that ends in `/` is a flat repository, without components."),
							"components":       optional("Components, such as `main`."),
							"architectures":    optional("Architectures, such as `amd64`; the host's own by default."),
							"signing_key":      schema.StringAttribute{Optional: true, MarkdownDescription: "The repository's signing key, armoured (`file(\"key.asc\")`).", Validators: []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`BEGIN PGP PUBLIC KEY BLOCK`), "must be an armoured PGP public key")}},
							"signing_key_path": schema.StringAttribute{Optional: true, MarkdownDescription: "Path of a keyring that is on the host already. Without a key of either kind, Debian's own keyrings count.", Validators: []validator.String{validate.AbsolutePath()}},
							"trusted":          schema.BoolAttribute{Optional: true, Computed: true, Default: booldefault.StaticBool(false), MarkdownDescription: "Do not check signatures, for a folder that you made yourself; false by default."},
						}},
					},
					"proxy": schema.StringAttribute{
						Optional: true, MarkdownDescription: "HTTP proxy for packages, such as `http://proxy.example.com:3128`; none by default.",
						Validators: []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^https?://[^\s"]+$`), "must be an http or https URL")},
					},
					"allow_expired_release": schema.BoolAttribute{
						Optional: true, Computed: true, Default: booldefault.StaticBool(false),
						MarkdownDescription: "Accept repositories whose Release file is past its date, such as frozen mirrors; false by default.",
					},
				},
			},
			"sysctl": schema.MapAttribute{
				ElementType: types.StringType, Optional: true, Computed: true,
				Default:             mapdefault.StaticValue(types.MapValueMust(types.StringType, defaultSysctl)),
				MarkdownDescription: "Kernel settings, set at once and at boot. By default `vm.swappiness = 1`, `vm.dirty_background_bytes = 67108864` and `vm.dirty_bytes = 536870912`, which keep checkpoints even; a map of your own replaces all three. Settings that the kernel refuses (in a container) are skipped. The values before are restored on destroy.",
				Validators: []validator.Map{
					mapvalidator.KeysAre(stringvalidator.RegexMatches(sysctlKey, "must be a kernel setting such as vm.swappiness")),
					mapvalidator.ValueStringsAre(validate.OneLine()),
				},
			},
			"max_open_files": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(65536),
				MarkdownDescription: "Limit of open files for logins of the users postgres and etcd; 65536 by default, 0 leaves it alone. The services themselves have limits of their own.",
				Validators:          []validator.Int64{int64validator.Between(0, 1<<30)},
			},
			"time_sync": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("check"),
				MarkdownDescription: "What to do if nothing keeps the host's clock right: `check` (the default) warns, `chrony` installs chrony, `off` does neither.",
				Validators:          []validator.String{stringvalidator.OneOf("check", "chrony", "off")},
			},
			"hosts_entries": schema.MapAttribute{
				ElementType: types.StringType, Optional: true,
				MarkdownDescription: "Names that the host has to know, each with its IP address, kept in a marked part of `/etc/hosts`; none by default.",
				Validators:          []validator.Map{mapvalidator.KeysAre(validate.Address()), mapvalidator.ValueStringsAre(validate.IP())},
			},
			"id": schema.StringAttribute{
				Computed: true, MarkdownDescription: "The host's name.",
			},
			"access": schema.ObjectAttribute{
				Computed: true, AttributeTypes: connattr.ConnectionType.AttrTypes,
				MarkdownDescription: "How the host is reached, to be passed to other resources. It holds no secrets.",
			},
			"machine_id": schema.StringAttribute{
				Computed: true, MarkdownDescription: "The host's `/etc/machine-id`: a host that was built anew has another one.",
				PlanModifiers: []planmodifier.String{stringplanmodifier.UseStateForUnknown()},
			},
			"drift": base.DriftAttribute(),
		},
		Blocks: map[string]schema.Block{
			"timeouts": base.Timeouts{Create: createTimeout, Read: readTimeout, Update: createTimeout, Delete: deleteTimeout}.Block(ctx),
		},
	}
}

func required(text string) schema.ListAttribute {
	return schema.ListAttribute{
		ElementType: types.StringType, Required: true, MarkdownDescription: text,
		Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(stringvalidator.RegexMatches(regexp.MustCompile(`^\S+$`), "must not have spaces"))},
	}
}

func optional(text string) schema.ListAttribute {
	l := required(text)
	l.Required, l.Optional = false, true
	return l
}

func mustDuration(s string) attr.Value {
	v, diags := customtypes.DurationType.ValueFromString(context.Background(), types.StringValue(s))
	if diags.HasError() {
		panic(diags)
	}
	return v
}
