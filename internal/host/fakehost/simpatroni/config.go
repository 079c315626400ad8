package simpatroni

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost/simetcd"
)

// configPath is where Debian's unit looks.
const configPath = "/etc/patroni/config.yml"

// config is Patroni's configuration file as far as the simulation goes by it.
type config struct {
	Scope     string
	Namespace string
	Name      string
	RestAPI   struct {
		Listen         string
		ConnectAddress string `yaml:"connect_address"`
		CertFile       string
		KeyFile        string
		CAFile         string
		Authentication account
		Allowlist      []string
	}
	Etcd3 struct {
		Hosts              []string
		Protocol           string
		CACert, Cert, Key  string
		Username, Password string
	}
	Bootstrap *struct {
		DCS    map[string]any
		Initdb []any
	}
	PostgreSQL struct {
		Listen         string
		ConnectAddress string `yaml:"connect_address"`
		DataDir        string `yaml:"data_dir"`
		BinDir         string `yaml:"bin_dir"`
		PGPass         string
		Authentication map[string]account `yaml:"authentication"`
		Parameters     map[string]string
	}
	Tags  map[string]any
	Citus *struct {
		Group    int
		Database string
	}
}

type account struct{ Username, Password string }

func parseConfig(text []byte) (*config, error) {
	var c config
	if err := yaml.Unmarshal(text, &c); err != nil {
		return nil, err
	}
	if c.Citus != nil {
		// A group has keys, members and a leader of its own (Patroni, dcs/__init__.py).
		c.Scope += "/" + strconv.Itoa(c.Citus.Group)
	}
	return &c, nil
}

// validate is patroni --validate-config.
func (c *config) validate(m *fakehost.Machine) []string {
	var problems []string
	for key, value := range map[string]string{
		"scope": c.Scope, "name": c.Name, "restapi.listen": c.RestAPI.Listen, "restapi.connect_address": c.RestAPI.ConnectAddress,
		"postgresql.listen": c.PostgreSQL.Listen, "postgresql.connect_address": c.PostgreSQL.ConnectAddress, "postgresql.data_dir": c.PostgreSQL.DataDir,
	} {
		if value == "" {
			problems = append(problems, key+" is not defined.")
		}
	}
	if m.Files.Get(c.PostgreSQL.BinDir+"/postgres") == nil {
		problems = append(problems, "postgresql.bin_dir "+c.PostgreSQL.BinDir+" didn't pass validation: 'Program 'postgres' not found.'")
	}
	if len(c.Etcd3.Hosts) == 0 {
		problems = append(problems, "none of the DCS is defined.")
	}
	for _, p := range []string{"superuser", "replication", "rewind"} {
		if c.PostgreSQL.Authentication[p].Password == "" {
			problems = append(problems, "postgresql.authentication."+p+" is not defined.")
		}
	}
	return problems
}

// secrets are the passwords in the file.
func (c *config) secrets() []string {
	list := []string{c.RestAPI.Authentication.Password, c.Etcd3.Password}
	for _, a := range c.PostgreSQL.Authentication {
		list = append(list, a.Password)
	}
	return list
}

func portOf(listen string) int {
	i := strings.LastIndexByte(listen, ':')
	n, _ := strconv.Atoi(listen[i+1:])
	return n
}

// loadTLS reads the REST API's certificate, and checks PostgreSQL's, which is
// the same one here.
func (n *Node) loadTLS(c *config) (*tls.Certificate, error) {
	read := func(p string) []byte { return n.m.Files.ReadAs("postgres", p) }
	cert, err := tls.X509KeyPair(read(c.RestAPI.CertFile), read(c.RestAPI.KeyFile))
	if err != nil {
		return nil, fmt.Errorf("restapi: %w", err)
	}
	if err := verify(cert, read(c.RestAPI.CAFile), x509.ExtKeyUsageServerAuth); err != nil {
		return nil, fmt.Errorf("restapi: %w", err)
	}
	for _, key := range []string{"ssl_cert_file", "ssl_key_file", "ssl_ca_file"} {
		if read(c.PostgreSQL.Parameters[key]) == nil {
			return nil, fmt.Errorf("could not load %s %q: Permission denied", key, c.PostgreSQL.Parameters[key])
		}
	}
	return &cert, nil
}

func verify(cert tls.Certificate, authority []byte, usage x509.ExtKeyUsage) error {
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return errors.New("the authority's certificate cannot be read")
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// checkEtcd makes sure that what the file says lets Patroni into etcd: a member
// that can be reached, the right authority, a certificate of it.
func (n *Node) checkEtcd(c *config) error {
	if c.Etcd3.Protocol == "https" {
		read := func(p string) []byte { return n.m.Files.ReadAs("postgres", p) }
		cert, err := tls.X509KeyPair(read(c.Etcd3.Cert), read(c.Etcd3.Key))
		if err != nil {
			return err
		}
		if err := verify(cert, read(c.Etcd3.CACert), x509.ExtKeyUsageClientAuth); err != nil {
			return err
		}
	}
	return n.checkLogin(c)
}

// checkLogin finds a member of etcd that lets Patroni in.
func (n *Node) checkLogin(c *config) error {
	// A connection that Patroni opens takes what is in the files then (urllib3,
	// connection.py); none is opened anew for a reload.
	id := simetcd.Identity{Client: fmt.Sprintf("%s, run %d", n.m.Name, n.run)}
	if c.Etcd3.Protocol == "https" {
		id.Certificate, id.Authorities = n.m.Files.ReadAs("postgres", c.Etcd3.Cert), n.m.Files.ReadAs("postgres", c.Etcd3.CACert)
	}
	n.sim.etcd.CheckIdentity(n.m, id)
	for _, h := range c.Etcd3.Hosts {
		address, _, err := net.SplitHostPort(h)
		if err != nil {
			return err
		}
		store, err := n.sim.etcd.Login(n.m, id, address, c.Etcd3.Username, c.Etcd3.Password)
		if err == nil {
			n.store = store
			return nil
		}
		if store != nil {
			return err
		}
	}
	return errors.New("no member of etcd answers")
}

// patchDocument merges as Patroni does (utils.patch_config), and reports
// whether anything changed.
func patchDocument(doc, patch map[string]any) bool {
	changed := false
	for k, v := range patch {
		have, exists := doc[k]
		child, isMap := v.(map[string]any)
		haveMap, haveIsMap := have.(map[string]any)
		switch {
		case v == nil:
			if exists {
				delete(doc, k)
				changed = true
			}
		case isMap && haveIsMap:
			changed = patchDocument(haveMap, child) || changed
		case !exists || fmt.Sprint(have) != fmt.Sprint(v):
			doc[k] = v
			changed = true
		}
	}
	return changed
}

func parseDocument(text string) map[string]any {
	var doc map[string]any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if dec.Decode(&doc) != nil {
		return nil
	}
	return doc
}

func render(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// number reads a number that may be written as text, as Patroni's int() does.
func number(doc map[string]any, key string, otherwise int64) (int64, error) {
	v, ok := doc[key]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(fmt.Sprint(v), 10, 64)
	if err != nil {
		return otherwise, fmt.Errorf("ValueError: invalid literal for int() with base 10: %q", fmt.Sprint(v))
	}
	return n, nil
}

// controlled are parameters that Patroni passes on the command line, with its
// defaults.
var controlled = map[string]string{
	"max_connections": "100", "max_worker_processes": "8", "wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10",
	"max_prepared_transactions": "0", "max_locks_per_transaction": "64", "hot_standby": "on", "wal_log_hints": "on", "track_commit_timestamp": "off",
}

// parameters are PostgreSQL's effective parameters.
func (n *Node) parameters() map[string]string {
	p := maps.Clone(controlled)
	if pg, ok := n.dynamic["postgresql"].(map[string]any); ok {
		if wanted, ok := pg["parameters"].(map[string]any); ok {
			for k, v := range wanted {
				p[strings.ToLower(k)] = text(v)
			}
		}
	}
	for k, v := range n.cfg.PostgreSQL.Parameters {
		p[strings.ToLower(k)] = v
	}
	return p
}

func text(v any) string {
	if b, ok := v.(bool); ok {
		return map[bool]string{true: "on", false: "off"}[b]
	}
	return fmt.Sprint(v)
}
