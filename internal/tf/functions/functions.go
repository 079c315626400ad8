// Package functions holds the provider's functions: connection strings that
// find the leader by themselves.
package functions

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/function"
)

// sessionAttrs are libpq's values of target_session_attrs.
var sessionAttrs = []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}

// targetServerTypes are the JDBC driver's words for them.
var targetServerTypes = map[string]string{
	"any": "any", "read-write": "primary", "read-only": "secondary", "primary": "primary", "standby": "secondary", "prefer-standby": "preferSecondary",
}

// NewConninfo returns the function conninfo.
func NewConninfo() function.Function { return &conninfo{} }

// NewJDBCURL returns the function jdbc_url.
func NewJDBCURL() function.Function { return &jdbcURL{} }

func definition(summary, description, example string) function.Definition {
	return function.Definition{
		Summary: summary, MarkdownDescription: description + "\n\nExample: `" + example + "`",
		Parameters: []function.Parameter{
			function.ListParameter{Name: "hosts", ElementType: stringType, MarkdownDescription: "Addresses of the nodes, each with a port if it is not 5432 (`10.0.0.1:5433`, `[fd00::1]:5433`)."},
			function.StringParameter{Name: "dbname", MarkdownDescription: "Database."},
			function.StringParameter{Name: "target_session_attrs", MarkdownDescription: "Which of them to use, as libpq says it: `" + strings.Join(sessionAttrs, "`, `") + "`."},
		},
		VariadicParameter: function.StringParameter{Name: "options", MarkdownDescription: "Further options, each `key=value`, such as `sslmode=verify-full`."},
		Return:            function.StringReturn{},
	}
}

type conninfo struct{}

func (conninfo) Metadata(_ context.Context, _ function.MetadataRequest, resp *function.MetadataResponse) {
	resp.Name = "conninfo"
}

func (conninfo) Definition(_ context.Context, _ function.DefinitionRequest, resp *function.DefinitionResponse) {
	resp.Definition = definition("A libpq connection string for all nodes of a cluster",
		"A connection string for libpq (psql and most drivers) that names all nodes and lets the client find the right one by itself: after a failover it connects to the new leader, without a virtual IP or DNS.",
		`provider::pgha::conninfo(["10.0.0.1", "10.0.0.2"], "app", "read-write", "sslmode=verify-full")`)
}

func (conninfo) Run(ctx context.Context, req function.RunRequest, resp *function.RunResponse) {
	a, err := arguments(ctx, req)
	if err != nil {
		resp.Error = err
		return
	}
	var hosts, ports []string
	for _, h := range a.hosts {
		hosts, ports = append(hosts, h.name), append(ports, strconv.Itoa(h.port))
	}
	parts := []string{
		"host=" + quote(strings.Join(hosts, ",")), "port=" + strings.Join(ports, ","), "dbname=" + quote(a.database),
		"target_session_attrs=" + a.attrs,
	}
	timeout := true
	for _, o := range a.options {
		parts = append(parts, o.key+"="+quote(o.value))
		timeout = timeout && o.key != "connect_timeout"
	}
	if timeout {
		// Without it a host that lost power holds each new connection up
		// for minutes.
		parts = append(parts, "connect_timeout=3")
	}
	resp.Error = resp.Result.Set(ctx, strings.Join(parts, " "))
}

// quote writes a value for a connection string (PostgreSQL documentation,
// "Connection Strings").
func quote(v string) string {
	if v != "" && !strings.ContainsAny(v, " \t\n'\\=") {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

type jdbcURL struct{}

func (jdbcURL) Metadata(_ context.Context, _ function.MetadataRequest, resp *function.MetadataResponse) {
	resp.Name = "jdbc_url"
}

func (jdbcURL) Definition(_ context.Context, _ function.DefinitionRequest, resp *function.DefinitionResponse) {
	resp.Definition = definition("A JDBC URL for all nodes of a cluster",
		"A URL for PostgreSQL's JDBC driver that names all nodes and lets the driver find the right one by itself (`targetServerType`).",
		`provider::pgha::jdbc_url(["10.0.0.1", "10.0.0.2"], "app", "read-write", "ssl=true")`)
}

func (jdbcURL) Run(ctx context.Context, req function.RunRequest, resp *function.RunResponse) {
	a, err := arguments(ctx, req)
	if err != nil {
		resp.Error = err
		return
	}
	var hosts []string
	for _, h := range a.hosts {
		hosts = append(hosts, net.JoinHostPort(h.name, strconv.Itoa(h.port)))
	}
	query := []string{"targetServerType=" + targetServerTypes[a.attrs]}
	timeout := true
	for _, o := range a.options {
		query = append(query, url.QueryEscape(o.key)+"="+url.QueryEscape(o.value))
		timeout = timeout && o.key != "connectTimeout"
	}
	if timeout {
		query = append(query, "connectTimeout=3")
	}
	resp.Error = resp.Result.Set(ctx, "jdbc:postgresql://"+strings.Join(hosts, ",")+"/"+url.PathEscape(a.database)+"?"+strings.Join(query, "&"))
}

type parsed struct {
	hosts    []hostPort
	database string
	attrs    string
	options  []option
}

type hostPort struct {
	name string
	port int
}

type option struct{ key, value string }

func arguments(ctx context.Context, req function.RunRequest) (parsed, *function.FuncError) {
	var a parsed
	var hosts, options []string
	if err := req.Arguments.Get(ctx, &hosts, &a.database, &a.attrs, &options); err != nil {
		return a, err
	}
	if len(hosts) == 0 {
		return a, function.NewArgumentFuncError(0, "hosts must name at least one node")
	}
	for _, h := range hosts {
		hp, err := parseHost(h)
		if err != nil {
			return a, function.NewArgumentFuncError(0, err.Error())
		}
		a.hosts = append(a.hosts, hp)
	}
	if !slices.Contains(sessionAttrs, a.attrs) {
		return a, function.NewArgumentFuncError(2, fmt.Sprintf("target_session_attrs is %q; it must be one of %s", a.attrs, strings.Join(sessionAttrs, ", ")))
	}
	for _, o := range options {
		k, v, ok := strings.Cut(o, "=")
		if !ok || k == "" || strings.ContainsAny(k, " '\\\n") {
			return a, function.NewArgumentFuncError(3, fmt.Sprintf("%q is not of the form key=value", o))
		}
		a.options = append(a.options, option{k, v})
	}
	return a, nil
}

func parseHost(h string) (hostPort, error) {
	if strings.ContainsAny(h, " ,'\"\\/\n") || h == "" {
		return hostPort{}, fmt.Errorf("%q is not the address of a node", h)
	}
	if strings.Count(h, ":") > 1 && !strings.HasPrefix(h, "[") {
		return hostPort{h, 5432}, nil // an IPv6 address
	}
	if !strings.Contains(strings.TrimPrefix(h, "["), ":") {
		return hostPort{strings.Trim(h, "[]"), 5432}, nil
	}
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		return hostPort{strings.Trim(h, "[]"), 5432}, nil
	}
	name, port, err := net.SplitHostPort(h)
	n, portErr := strconv.Atoi(port)
	if err != nil || portErr != nil || n < 1 || n > 65535 {
		return hostPort{}, fmt.Errorf("%q is not the address of a node, with or without a port", h)
	}
	return hostPort{name, n}, nil
}
