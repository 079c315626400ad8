package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/pgha/terraform-provider-pgha/internal/redact"
	"github.com/pgha/terraform-provider-pgha/internal/sshx"
	"github.com/pgha/terraform-provider-pgha/internal/tf/customtypes"
)

type model struct {
	OnUnreachable types.String `tfsdk:"on_unreachable"`
	ProgressFile  types.String `tfsdk:"progress_file"`
	SSH           types.Object `tfsdk:"ssh"`
}

type sshModel struct {
	User             types.String     `tfsdk:"user"`
	Port             types.Int64      `tfsdk:"port"`
	PrivateKey       types.String     `tfsdk:"private_key"`
	PrivateKeyFile   types.String     `tfsdk:"private_key_file"`
	Passphrase       types.String     `tfsdk:"private_key_passphrase"`
	Agent            types.Bool       `tfsdk:"agent"`
	Password         types.String     `tfsdk:"password"`
	HostKeyPolicy    types.String     `tfsdk:"host_key_policy"`
	KnownHostsFile   types.String     `tfsdk:"known_hosts_file"`
	KnownHosts       types.List       `tfsdk:"known_hosts"`
	AcceptedKeysFile types.String     `tfsdk:"accepted_keys_file"`
	Become           types.String     `tfsdk:"become"`
	BecomePassword   types.String     `tfsdk:"become_password"`
	Bastions         types.List       `tfsdk:"bastions"`
	ConnectTimeout   customtypes.Text `tfsdk:"connect_timeout"`
	BootTimeout      customtypes.Text `tfsdk:"boot_timeout"`
	MaxConnections   types.Int64      `tfsdk:"max_connections"`
}

type bastionModel struct {
	Host    types.String `tfsdk:"host"`
	Port    types.Int64  `tfsdk:"port"`
	User    types.String `tfsdk:"user"`
	HostKey types.String `tfsdk:"host_key"`
}

// EnvPrefix begins the environment variables that stand in for attributes of
// the ssh block: PGHA_SSH_USER for user.
const EnvPrefix = "PGHA_SSH_"

// sshConfig makes the SSH layer's configuration of the block, the environment
// where the block is silent, and defaults.
func (m model) sshConfig(ctx context.Context, secrets *redact.Set, diags *diag.Diagnostics) sshx.Config {
	var s sshModel
	if !m.SSH.IsNull() && !m.SSH.IsUnknown() {
		diags.Append(m.SSH.As(ctx, &s, basetypes.ObjectAsOptions{})...)
	}
	e := env{diags: diags}
	cfg := sshx.Config{
		User:           e.text("user", s.User),
		Port:           e.number("port", s.Port),
		Password:       e.secret("password", s.Password, secrets),
		Become:         sshx.Become(e.text("become", s.Become)),
		BecomePassword: e.secret("become_password", s.BecomePassword, secrets),
		ConnectTimeout: e.duration("connect_timeout", s.ConnectTimeout),
		BootTimeout:    e.duration("boot_timeout", s.BootTimeout),
		MaxConnections: e.number("max_connections", s.MaxConnections),
		Redact:         secrets,
		HostKeys:       sshx.HostKeys{Policy: sshx.HostKeyPolicy(e.text("host_key_policy", s.HostKeyPolicy))},
	}
	m.keys(&cfg, s, e, secrets)
	m.hostKeys(ctx, &cfg, s, e)
	cfg.Bastions = bastions(ctx, s, e)
	return cfg
}

func (m model) keys(cfg *sshx.Config, s sshModel, e env, secrets *redact.Set) {
	at := path.Root("ssh")
	passphrase := e.secret("private_key_passphrase", s.Passphrase, secrets)
	if text := e.secret("private_key", s.PrivateKey, secrets); text != "" {
		cfg.Keys = append(cfg.Keys, sshx.Key{PEM: []byte(text), Passphrase: passphrase})
	} else if file := e.text("private_key_file", s.PrivateKeyFile); file != "" {
		text, err := os.ReadFile(home(file))
		if err != nil {
			e.diags.AddAttributeError(at.AtName("private_key_file"), "Unable to read the private key", err.Error())
			return
		}
		key := sshx.Key{PEM: text, Passphrase: passphrase}
		if certificate, err := os.ReadFile(home(file) + "-cert.pub"); err == nil {
			key.Certificate = certificate
		}
		cfg.Keys = append(cfg.Keys, key)
	}
	agent := e.text("agent", types.StringNull())
	switch {
	case !s.Agent.IsNull() && !s.Agent.IsUnknown():
		cfg.UseAgent = s.Agent.ValueBool()
	case agent != "":
		v, err := strconv.ParseBool(agent)
		if err != nil {
			e.diags.AddError("Invalid environment variable", EnvPrefix+"AGENT must be true or false.")
		}
		cfg.UseAgent = v
	default:
		cfg.UseAgent = len(cfg.Keys) == 0 && cfg.Password == "" && os.Getenv("SSH_AUTH_SOCK") != ""
	}
}

func (m model) hostKeys(ctx context.Context, cfg *sshx.Config, s sshModel, e env) {
	if file := e.text("known_hosts_file", s.KnownHostsFile); file != "" {
		if _, err := os.Stat(home(file)); errors.Is(err, fs.ErrNotExist) {
			e.diags.AddAttributeError(path.Root("ssh").AtName("known_hosts_file"), "Unable to read the known host keys", err.Error())
		}
		cfg.HostKeys.Files = []string{home(file)}
	} else {
		cfg.HostKeys.Files = []string{home("~/.ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	if !s.KnownHosts.IsNull() && !s.KnownHosts.IsUnknown() {
		var lines []types.String
		e.diags.Append(s.KnownHosts.ElementsAs(ctx, &lines, false)...)
		for _, l := range lines {
			if !l.IsUnknown() {
				cfg.HostKeys.Lines = append(cfg.HostKeys.Lines, l.ValueString())
			}
		}
	}
	cfg.HostKeys.AcceptedFile = e.text("accepted_keys_file", s.AcceptedKeysFile)
	if cfg.HostKeys.AcceptedFile == "" && cfg.HostKeys.Policy == sshx.AcceptNew {
		dir, err := os.UserConfigDir()
		if err != nil {
			e.diags.AddAttributeError(path.Root("ssh").AtName("accepted_keys_file"), "There is no place for accepted keys", err.Error())
		}
		cfg.HostKeys.AcceptedFile = filepath.Join(dir, "pgha", "known_hosts")
	}
	cfg.HostKeys.AcceptedFile = home(cfg.HostKeys.AcceptedFile)
}

// bastions come from the block, or from PGHA_SSH_BASTIONS as a comma-separated
// list of [user@]host[:port].
func bastions(ctx context.Context, s sshModel, e env) []sshx.Jump {
	var jumps []sshx.Jump
	if !s.Bastions.IsNull() && !s.Bastions.IsUnknown() {
		var list []bastionModel
		e.diags.Append(s.Bastions.ElementsAs(ctx, &list, false)...)
		for _, b := range list {
			jumps = append(jumps, sshx.Jump{
				Host: b.Host.ValueString(), Port: int(b.Port.ValueInt64()), User: b.User.ValueString(), HostKey: b.HostKey.ValueString(),
			})
		}
		return jumps
	}
	if text := os.Getenv(EnvPrefix + "BASTIONS"); text != "" {
		for part := range strings.SplitSeq(text, ",") {
			j, err := sshx.ParseJump(part)
			if err != nil {
				e.diags.AddError("Invalid environment variable", EnvPrefix+"BASTIONS: "+err.Error())
			}
			jumps = append(jumps, j)
		}
	}
	return jumps
}

// env takes attributes, or the environment where they are null. Unknown counts
// as null.
type env struct{ diags *diag.Diagnostics }

func (e env) text(name string, v types.String) string {
	if !v.IsNull() && !v.IsUnknown() {
		return v.ValueString()
	}
	return os.Getenv(EnvPrefix + strings.ToUpper(name))
}

func (e env) secret(name string, v types.String, secrets *redact.Set) string {
	s := e.text(name, v)
	if s != "" {
		secrets.Add(s)
	}
	return s
}

func (e env) number(name string, v types.Int64) int {
	if !v.IsNull() && !v.IsUnknown() {
		return int(v.ValueInt64())
	}
	text := os.Getenv(EnvPrefix + strings.ToUpper(name))
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		e.diags.AddError("Invalid environment variable", fmt.Sprintf("%s%s is %q; it must be a positive number.", EnvPrefix, strings.ToUpper(name), text))
	}
	return n
}

func (e env) duration(name string, v customtypes.Text) time.Duration {
	if !v.IsNull() && !v.IsUnknown() {
		return v.Duration()
	}
	text := os.Getenv(EnvPrefix + strings.ToUpper(name))
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		e.diags.AddError("Invalid environment variable", fmt.Sprintf("%s%s is %q; it must be a duration such as 10s.", EnvPrefix, strings.ToUpper(name), text))
	}
	return d
}

// home replaces a leading "~/".
func home(file string) string {
	if rest, ok := strings.CutPrefix(file, "~/"); ok {
		if dir, err := os.UserHomeDir(); err == nil {
			return filepath.Join(dir, rest)
		}
	}
	return file
}
