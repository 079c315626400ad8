package patroni

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/postgres"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Node is PostgreSQL and Patroni on one host, as they should be.
type Node struct {
	Cluster Cluster
	Name    string
	// Address is where clients and the other nodes reach it.
	Address string
	Target  host.Target

	Postgres string // pin
	Patroni  string // pin
	// Extensions are pins of packages of extensions, by what ExtensionPackage takes.
	Extensions map[string]string
	// Freed are packages of extensions that were pinned before: they stay, and are no
	// longer held.
	Freed    []string
	DataDir  string
	Tags     map[string]any
	Watchdog Watchdog

	// NamedIPv6: Address is a name, and it leads to IPv6 alone.
	NamedIPv6 bool

	// EtcdUser and EtcdPassword are what a node of a cluster that somebody else made
	// comes to etcd with; empty for what its file says.
	EtcdUser, EtcdPassword string

	// Reclone: the plan has said that the replica is broken and that its data
	// will be replaced by a new clone.
	Reclone bool
}

// Files and names on a node's host.
const (
	// MarkerPath says which cluster the host's Patroni belongs to.
	MarkerPath = "/etc/pgha/patroni.json"
	// ConfigPath is where Debian's unit reads the configuration.
	ConfigPath = "/etc/patroni/config.yml"
	// Unit is Debian's unit.
	Unit       = "patroni.service"
	dropInPath = "/etc/systemd/system/patroni.service.d/pgha.conf"
	// noClusterPath keeps Debian's packages from making a cluster "main".
	noClusterPath = "/etc/postgresql-common/createcluster.d/pgha.conf"
	account       = "postgres"
	pgpassPath    = "/var/lib/postgresql/pgpass.patroni"
	socketDir     = "/var/run/postgresql"

	patroniPackage = "patroni"
	etcdPackage    = "python3-etcd"
)

// Dir is the folder of our own files about a cluster on a node's host.
func (c Cluster) Dir() string { return "/etc/pgha/patroni/" + c.Scope }

func (n Node) major() int {
	m, err := postgres.Major(n.Postgres)
	if err != nil {
		return 0
	}
	return m
}

// ExtensionPackage is the package of an extension: "pgvector" is postgresql-17-pgvector.
// A name that says of which PostgreSQL it is, as some repositories' do, is a package's
// own: "timescaledb-2-postgresql-17".
func (n Node) ExtensionPackage(name string) string {
	if strings.Contains(name, "postgresql") {
		return name
	}
	return n.serverPackage() + "-" + name
}

// extensions are the packages of extensions, each with the pin.
func (n Node) extensions() []remote.Pin {
	var pins []remote.Pin
	for _, name := range sortedKeys(n.Extensions) {
		pins = append(pins, remote.Pin{Name: n.ExtensionPackage(name), Version: n.Extensions[name]})
	}
	return pins
}

func (n Node) serverPackage() string { return "postgresql-" + strconv.Itoa(n.major()) }
func (n Node) clientPackage() string { return "postgresql-client-" + strconv.Itoa(n.major()) }

// leaf is the node's certificate, for PostgreSQL and the REST API.
func (n Node) leaf() pki.Leaf {
	names := []string{n.Address, "localhost", "127.0.0.1", "::1"}
	if _, err := netip.ParseAddr(n.Name); err != nil && n.Name != n.Address {
		names = append(names, n.Name)
	}
	return pki.Leaf{
		Organization: "patroni-node." + n.Cluster.Scope, Names: names, Server: true, Client: true,
		Key: n.Cluster.Dir() + "/node.key", Certificate: n.Cluster.Dir() + "/node.crt", Owner: "root", Group: account,
	}
}

// etcdLeaf is the certificate with which Patroni comes to etcd.
func (n Node) etcdLeaf() pki.Leaf {
	return pki.Leaf{
		Organization: "patroni-node." + n.Cluster.Scope, Client: true,
		Key: n.Cluster.Dir() + "/etcd.key", Certificate: n.Cluster.Dir() + "/etcd.crt", Owner: "root", Group: account,
	}
}

// AuthorityPath is where a node has the certificate of the authority of all nodes.
func (c Cluster) AuthorityPath() string { return c.Dir() + "/ca.crt" }

func (c Cluster) etcdAuthorityPath() string { return c.Dir() + "/etcd-ca.crt" }

// The types below are Patroni's configuration file (Patroni documentation,
// "YAML Configuration Settings"), as far as we write it.

type configFile struct {
	Scope      string         `yaml:"scope"`
	Namespace  string         `yaml:"namespace"`
	Name       string         `yaml:"name"`
	RestAPI    restAPI        `yaml:"restapi"`
	Ctl        ctl            `yaml:"ctl"`
	Etcd3      etcd3          `yaml:"etcd3"`
	Bootstrap  *bootstrap     `yaml:"bootstrap,omitempty"`
	PostgreSQL postgreSQL     `yaml:"postgresql"`
	Watchdog   watchdog       `yaml:"watchdog"`
	Tags       map[string]any `yaml:"tags,omitempty"`
	Citus      *citusSection  `yaml:"citus,omitempty"`
}

type citusSection struct {
	Group    int    `yaml:"group"`
	Database string `yaml:"database"`
}

type restAPI struct {
	Listen         string         `yaml:"listen"`
	ConnectAddress string         `yaml:"connect_address"`
	CertFile       string         `yaml:"certfile"`
	KeyFile        string         `yaml:"keyfile"`
	CAFile         string         `yaml:"cafile"`
	Authentication authentication `yaml:"authentication"`
	Allowlist      []string       `yaml:"allowlist"`
	Members        bool           `yaml:"allowlist_include_members"`
}

type authentication struct {
	Username    string `yaml:"username"`
	Password    string `yaml:"password"`
	SSLMode     string `yaml:"sslmode,omitempty"`
	SSLRootCert string `yaml:"sslrootcert,omitempty"`
}

type ctl struct {
	CACert string `yaml:"cacert"`
}

type etcd3 struct {
	Hosts    []string `yaml:"hosts"`
	Protocol string   `yaml:"protocol"`
	CACert   string   `yaml:"cacert,omitempty"`
	Cert     string   `yaml:"cert,omitempty"`
	Key      string   `yaml:"key,omitempty"`
	Username string   `yaml:"username,omitempty"`
	Password string   `yaml:"password,omitempty"`
}

type bootstrap struct {
	DCS    map[string]any `yaml:"dcs"`
	Initdb []any          `yaml:"initdb"`
	HBA    []string       `yaml:"pg_hba,omitempty"`
}

type postgreSQL struct {
	Listen         string            `yaml:"listen"`
	ConnectAddress string            `yaml:"connect_address"`
	DataDir        string            `yaml:"data_dir"`
	BinDir         string            `yaml:"bin_dir"`
	PGPass         string            `yaml:"pgpass"`
	UnixSocket     bool              `yaml:"use_unix_socket"`
	Authentication map[string]any    `yaml:"authentication"`
	Parameters     map[string]string `yaml:"parameters"`
	BaseBackup     []any             `yaml:"basebackup"`
}

type watchdog struct {
	Mode         string `yaml:"mode"`
	Device       string `yaml:"device,omitempty"`
	SafetyMargin *int64 `yaml:"safety_margin,omitempty"`
}

// config renders the node's configuration file. Only with bootstrapping does
// it have a bootstrap section: a node without one can never initialise a
// database (Patroni, ha.py, bootstrap), whatever etcd says or forgets, so only
// the first node has it, and only until the database is there.
func (n Node) config(s Secrets, bootstrapping bool) remote.File {
	c := n.Cluster
	tls := func(user, password string) authentication {
		return authentication{Username: user, Password: password, SSLMode: "verify-ca", SSLRootCert: c.AuthorityPath()}
	}
	f := configFile{
		Scope: c.Scope, Namespace: c.Namespace, Name: n.Name,
		RestAPI: restAPI{
			Listen:         net.JoinHostPort(n.apiListen(), strconv.Itoa(c.APIPort)),
			ConnectAddress: net.JoinHostPort(n.Address, strconv.Itoa(c.APIPort)),
			CertFile:       n.leaf().Certificate, KeyFile: n.leaf().Key, CAFile: c.AuthorityPath(),
			Authentication: authentication{Username: c.Users.API, Password: s.API},
			Allowlist:      n.apiAllowlist(),
			Members:        true,
		},
		Ctl:      ctl{CACert: c.AuthorityPath()},
		Etcd3:    etcd3{Protocol: "http"},
		Watchdog: n.Watchdog.section(),
		PostgreSQL: postgreSQL{
			// Both families, whichever of them the address is of: who may
			// connect is the business of pg_hba.
			Listen:         "*:" + strconv.Itoa(c.PostgresPort),
			ConnectAddress: net.JoinHostPort(n.Address, strconv.Itoa(c.PostgresPort)),
			DataDir:        n.DataDir, BinDir: postgres.BinDir(n.major()), PGPass: pgpassPath, UnixSocket: true,
			Authentication: map[string]any{
				"superuser":   tls(c.Users.Superuser, s.Superuser),
				"replication": tls(c.Users.Replication, s.Replication),
				"rewind":      tls(c.Users.Rewind, s.Rewind),
			},
			Parameters: map[string]string{
				"unix_socket_directories": socketDir,
				"ssl":                     "on",
				"ssl_cert_file":           n.leaf().Certificate,
				"ssl_key_file":            n.leaf().Key,
				"ssl_ca_file":             c.AuthorityPath(),
			},
			// Without it a clone waits for the next regular checkpoint.
			BaseBackup: []any{map[string]string{"checkpoint": "fast"}},
		},
		Tags: n.Tags,
	}
	if c.Citus != nil {
		f.Citus = &citusSection{c.Citus.Group, c.Citus.Database}
		// Citus's own default takes whoever answers for the other node.
		f.PostgreSQL.Parameters["citus.node_conninfo"] = "sslmode=verify-full sslrootcert=" + c.AuthorityPath()
	}
	for _, name := range c.Etcd.Names() {
		f.Etcd3.Hosts = append(f.Etcd3.Hosts, net.JoinHostPort(c.Etcd.Members[name].Address, strconv.Itoa(c.Etcd.ClientPort)))
	}
	if c.Etcd.TLS {
		f.Etcd3.Protocol = "https"
		f.Etcd3.CACert, f.Etcd3.Cert, f.Etcd3.Key = c.etcdAuthorityPath(), n.etcdLeaf().Certificate, n.etcdLeaf().Key
		if brought := n.etcdFiles(); brought != nil {
			f.Etcd3.CACert, f.Etcd3.Cert, f.Etcd3.Key = brought.Trusted, brought.Certificate, brought.Key
		}
	}
	if c.Etcd.Auth || s.LogsIn {
		f.Etcd3.Username, f.Etcd3.Password = s.etcdUser(c), s.Etcd
	}
	if bootstrapping {
		// The dynamic configuration is in etcd already: Patroni takes that
		// one. An empty one here keeps its validator content.
		f.Bootstrap = &bootstrap{DCS: map[string]any{}, Initdb: c.Initdb.options(n.major())}
		if before(n.Patroni, 3, 1, 0) {
			// Its validator asks for it. Patroni takes the dynamic one.
			f.Bootstrap.HBA = []string{"local all all peer"}
		}
	}
	b, err := yaml.Marshal(f)
	if err != nil {
		panic(err) // plain types only
	}
	return configOf(append([]byte("# Written by the pgha provider; changes are overwritten.\n"), b...))
}

// configOf is Patroni's configuration file with the given content.
func configOf(content []byte) remote.File {
	return remote.File{Path: ConfigPath, Content: content, Owner: "root", Group: account, Mode: "0640", Sensitive: true}
}

// apiListen is where the REST API listens. Patroni opens one socket. One for
// IPv6 takes IPv4 as well, but sees such clients at addresses that are in no
// network of the allowlist, nor members; so it is used only where the others
// come by IPv6.
func (n Node) apiListen() string {
	if a, err := netip.ParseAddr(n.Address); err == nil && a.Is6() || n.NamedIPv6 {
		return "::"
	}
	return "0.0.0.0"
}

// apiAllowlist are the addresses, besides the members', from which the REST API
// takes orders. We come from the host itself, by IPv4.
func (n Node) apiAllowlist() []string {
	list := append([]string{"127.0.0.1", "::1"}, n.Cluster.APIAllowlist...)
	if n.apiListen() != "::" {
		return list
	}
	for _, entry := range list {
		if a, err := netip.ParseAddr(entry); err == nil && a.Is4() {
			list = append(list, netip.AddrFrom16(a.As16()).String())
		}
		if p, err := netip.ParsePrefix(entry); err == nil && p.Addr().Is4() {
			mapped := netip.AddrFrom16(p.Addr().As16())
			list = append(list, fmt.Sprintf("%s/%d", mapped, 96+p.Bits()))
		}
	}
	return list
}

// options are initdb's, for a major version of PostgreSQL: from 18 on it makes
// checksums unless told not to.
func (i Initdb) options(major int) []any {
	o := []any{map[string]string{"encoding": i.Encoding}, map[string]string{"locale": i.Locale}}
	switch {
	case i.DataChecksums:
		o = append(o, "data-checksums")
	case major >= 18:
		o = append(o, "no-data-checksums")
	}
	return o
}

// dropIn is what we add to Debian's unit.
const dropIn = `# Written by the pgha provider; changes are overwritten.
[Unit]
StartLimitIntervalSec=0
[Service]
# Stopping waits for a checkpoint. Killed earlier, Patroni would leave
# PostgreSQL running with nobody in charge.
TimeoutStopSec=900
Restart=on-failure
RestartSec=5s
# PostgreSQL runs in this unit.
LimitNOFILE=65536
OOMScoreAdjust=-900
Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj
Environment=PG_OOM_ADJUST_VALUE=0
`

// files are those of the node's files that hold no secret and do not depend on
// the state of the cluster.
func (n Node) files() []remote.File {
	return []remote.File{{Path: dropInPath, Content: []byte(dropIn)}}
}

// noCluster is written before PostgreSQL's packages are installed.
func noCluster() remote.File {
	return remote.File{Path: noClusterPath, Content: []byte("# Written by the pgha provider: Patroni makes the database, not the packages.\ncreate_main_cluster = false\n")}
}

// leaves are the certificates that the node's host needs.
func (n Node) leaves() []pki.Leaf {
	if !n.Cluster.Etcd.IssuesForPatroni() {
		return []pki.Leaf{n.leaf()}
	}
	return []pki.Leaf{n.leaf(), n.etcdLeaf()}
}
