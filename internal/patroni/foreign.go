package patroni

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// ForeignConfig is a configuration file of Patroni's that somebody else wrote. It is
// kept as it is, but for what is managed: the tags and the members of etcd.
type ForeignConfig struct {
	text []byte
	file foreignFile
}

// foreignFile is what is read of it (Patroni documentation, "YAML Configuration
// Settings").
type foreignFile struct {
	Scope     string
	Namespace string
	Name      string
	RestAPI   struct {
		Listen         string
		ConnectAddress string `yaml:"connect_address"`
		CertFile       string
		VerifyClient   string `yaml:"verify_client"`
		Authentication struct{ Username, Password string }
		Allowlist      []string
	}
	Etcd       *foreignEtcd
	Etcd3      *foreignEtcd
	PostgreSQL struct {
		ConnectAddress string `yaml:"connect_address"`
		DataDir        string `yaml:"data_dir"`
		Authentication map[string]struct{ Username, Password string }
	}
	Watchdog watchdog
	Citus    map[string]any
	Tags     map[string]any
}

type foreignEtcd struct {
	Hosts              any
	Host               string
	URL, Proxy, SRV    string
	Protocol           string
	CACert, Cert, Key  string
	Username, Password string
}

// ParseForeign reads such a file.
func ParseForeign(text []byte) (*ForeignConfig, error) {
	f := &ForeignConfig{text: text}
	if err := yaml.Unmarshal(text, &f.file); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", ConfigPath, err)
	}
	if f.file.Namespace == "" {
		f.file.Namespace = "service"
	}
	f.file.Namespace = "/" + strings.Trim(f.file.Namespace, "/") + "/"
	return f, nil
}

// is reports whether it is the file of a node.
func (f *ForeignConfig) is(n Node) bool {
	return f != nil && f.file.Scope == n.Cluster.Scope && f.inGroup(n.Cluster.Citus) && f.file.Namespace == "/"+strings.Trim(n.Cluster.Namespace, "/")+"/" && f.file.Name == n.Name
}

// belongs refuses the file of a host that runs another node than the one that is looked
// for, or one that is not in the database of its Citus group.
func (f *ForeignConfig) belongs(n Node) error {
	c := n.Cluster
	refuse := func(cause, do string) error {
		return &problem.Error{Host: n.Target.Name, Step: "look at the node", Cause: errors.New(cause), Do: do}
	}
	if !f.is(n) {
		return refuse(fmt.Sprintf("this host runs the node %q of %s, not %q of %s%s", f.file.Name, f.cluster(), n.Name, c.Namespace, c.Name()),
			"name the node in the id as its configuration file does.")
	}
	if c.Citus == nil || c.Citus.Database == "" {
		return nil
	}
	if have := f.describes(c).Citus.Database; have != c.Citus.Database {
		return refuse(fmt.Sprintf("citus.database is %q here, and %q in the file of another node of %s", have, c.Citus.Database, c.Name()), "give all nodes of the formation the same.")
	}
	return nil
}

// inGroup reports whether it is the file of a node of that group, or of none.
func (f *ForeignConfig) inGroup(c *Citus) bool {
	if c == nil || len(f.file.Citus) == 0 {
		return c == nil && len(f.file.Citus) == 0
	}
	group, ok := Int(f.file.Citus["group"])
	return ok && group == int64(c.Group)
}

// cluster names the cluster whose node's file it is, as its keys in etcd do.
func (f *ForeignConfig) cluster() string {
	name := f.file.Namespace + f.file.Scope
	if group, ok := Int(f.file.Citus["group"]); ok {
		name += fmt.Sprintf("/%d", group)
	}
	return name
}

// describes returns a cluster with what the file says of it.
func (f *ForeignConfig) describes(c Cluster) Cluster {
	c.Users, c.APIAllowlist = f.users(), f.allowlist()
	c.PostgresPort, c.APIPort = f.ports()
	if c.Citus != nil {
		c.Citus = &Citus{Group: c.Citus.Group, Database: Text(f.file.Citus["database"])}
	}
	return c
}

// unsupported says what of it this release cannot manage.
func (f *ForeignConfig) unsupported() error {
	switch {
	case f.file.Etcd3 == nil && f.file.Etcd != nil:
		return errors.New("it uses etcd's old protocol (etcd: instead of etcd3:), which etcd has dropped")
	case f.file.Etcd3 == nil:
		return errors.New("it does not use etcd")
	case f.file.RestAPI.VerifyClient == "required" || f.file.RestAPI.VerifyClient == "optional":
		return fmt.Errorf("restapi.verify_client is %q: the REST API wants client certificates that this provider cannot make", f.file.RestAPI.VerifyClient)
	case f.users().Superuser != "postgres":
		return fmt.Errorf("the superuser is %q, not postgres", f.users().Superuser)
	}
	return nil
}

func (f *ForeignConfig) users() Users {
	u := Users{Superuser: "postgres", Replication: "replicator", Rewind: "rewind_user", API: "patroni"}
	for name, to := range map[string]*string{"superuser": &u.Superuser, "replication": &u.Replication, "rewind": &u.Rewind} {
		if a := f.file.PostgreSQL.Authentication[name]; a.Username != "" {
			*to = a.Username
		}
	}
	if name := f.file.RestAPI.Authentication.Username; name != "" {
		u.API = name
	}
	return u
}

// secrets are the passwords in the file. Where there is none it is empty.
func (f *ForeignConfig) secrets() Secrets {
	a := f.file.PostgreSQL.Authentication
	s := Secrets{
		Superuser: a["superuser"].Password, Replication: a["replication"].Password, Rewind: a["rewind"].Password,
		API: f.file.RestAPI.Authentication.Password,
	}
	if f.file.Etcd3 != nil {
		s.Etcd = f.file.Etcd3.Password
	}
	return s
}

// ports are those of PostgreSQL and of the REST API.
func (f *ForeignConfig) ports() (postgres, api int) {
	port := func(address string, otherwise int) int {
		if i := strings.LastIndexByte(address, ':'); i >= 0 {
			if n, err := strconv.Atoi(address[i+1:]); err == nil {
				return n
			}
		}
		return otherwise
	}
	return port(f.file.PostgreSQL.ConnectAddress, 5432), port(f.file.RestAPI.ConnectAddress, 8008)
}

// address is where the other nodes reach it.
func (f *ForeignConfig) address() string {
	host, _, err := net.SplitHostPort(f.file.PostgreSQL.ConnectAddress)
	if err != nil {
		return f.file.PostgreSQL.ConnectAddress
	}
	return host
}

// allowlist is the REST API's, without what every node may.
func (f *ForeignConfig) allowlist() []string {
	list := []string{}
	for _, a := range f.file.RestAPI.Allowlist {
		if a != "127.0.0.1" && a != "::1" {
			list = append(list, a)
		}
	}
	return list
}

// tags are the tags that say something: Patroni's own ones that are false say
// nothing.
func (f *ForeignConfig) tags() map[string]any {
	tags := map[string]any{}
	for name, v := range f.file.Tags {
		if _, shown := shownTags(map[string]any{name: v})[name]; shown {
			tags[name] = v
		}
	}
	return tags
}

// endpoints are the members of etcd, in order.
func (f *ForeignConfig) endpoints() []string {
	var list []string
	if f.file.Etcd3 == nil {
		return nil
	}
	switch hosts := f.file.Etcd3.Hosts.(type) {
	case string:
		list = strings.Split(hosts, ",")
	case []any:
		for _, h := range hosts {
			list = append(list, fmt.Sprint(h))
		}
	}
	if f.file.Etcd3.Host != "" {
		list = append(list, f.file.Etcd3.Host)
	}
	for i, h := range list {
		h = strings.TrimSpace(h)
		if _, rest, ok := strings.Cut(h, "://"); ok {
			h = rest
		}
		if _, _, err := net.SplitHostPort(h); err != nil {
			h = net.JoinHostPort(strings.Trim(h, "[]"), "2379")
		}
		list[i] = h
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Merge returns the file with what is managed as the node wants it, and all else
// as it was, comments included. Without a difference it is the same text.
func (f *ForeignConfig) Merge(n Node) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(f.text, &doc); err != nil {
		return nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s is not a mapping", ConfigPath)
	}
	root, changed := doc.Content[0], false
	if !maps.Equal(shownTags(f.file.Tags), shownTags(n.Tags)) {
		changed = true
		if err := setKey(root, "tags", n.Tags); err != nil {
			return nil, err
		}
	}
	var wanted []string
	for _, name := range n.Cluster.Etcd.Names() {
		wanted = append(wanted, net.JoinHostPort(n.Cluster.Etcd.Members[name].Address, strconv.Itoa(n.Cluster.Etcd.ClientPort)))
	}
	slices.Sort(wanted)
	if etcd := mapping(root, "etcd3"); etcd != nil && !slices.Equal(f.endpoints(), wanted) {
		changed = true
		dropKey(etcd, "host")
		if err := setKey(etcd, "hosts", wanted); err != nil {
			return nil, err
		}
	}
	if etcd := mapping(root, "etcd3"); etcd != nil {
		comes, err := f.comes(n)
		if err != nil {
			return nil, err
		}
		for _, kv := range comes {
			changed = true
			setScalar(etcd, kv[0], kv[1])
		}
	}
	if !changed {
		return f.text, nil
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// comes are the settings of how the node comes to etcd that have to be others.
func (f *ForeignConfig) comes(n Node) (list [][2]string, err error) {
	have := f.file.Etcd3
	want := map[string][2]string{}
	if n.Cluster.Etcd.IssuesForPatroni() {
		if have.URL != "" || have.Proxy != "" || have.SRV != "" {
			return nil, &problem.Error{
				Cause: errOneAddress, Left: ConfigPath + ", as it was.", Do: "name the members of etcd by hosts there, one node at a time, then apply again.",
			}
		}
		want["protocol"], want["cacert"] = [2]string{have.Protocol, "https"}, [2]string{have.CACert, n.Cluster.etcdAuthorityPath()}
		want["cert"], want["key"] = [2]string{have.Cert, n.etcdLeaf().Certificate}, [2]string{have.Key, n.etcdLeaf().Key}
	}
	if n.EtcdPassword != "" {
		want["username"], want["password"] = [2]string{have.Username, n.EtcdUser}, [2]string{have.Password, n.EtcdPassword}
	}
	for _, key := range []string{"protocol", "cacert", "cert", "key", "username", "password"} {
		if w, ok := want[key]; ok && w[0] != w[1] {
			list = append(list, [2]string{key, w[1]})
		}
	}
	return list, nil
}

// setScalar sets a key to a text.
func setScalar(in *yaml.Node, key, value string) {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key {
			node.LineComment, node.HeadComment, node.FootComment = in.Content[i+1].LineComment, in.Content[i+1].HeadComment, in.Content[i+1].FootComment
			in.Content[i+1] = node
			return
		}
	}
	in.Content = append(in.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, node)
}

// mapping is the value of a key that is a mapping, or nil.
func mapping(in *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key && in.Content[i+1].Kind == yaml.MappingNode {
			return in.Content[i+1]
		}
	}
	return nil
}

// setKey sets a key, or removes it if the value is empty.
func setKey[V map[string]any | []string](in *yaml.Node, key string, value V) error {
	if len(value) == 0 {
		dropKey(in, key)
		return nil
	}
	var node yaml.Node
	if err := node.Encode(value); err != nil {
		return err
	}
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key {
			in.Content[i+1] = &node
			return nil
		}
	}
	in.Content = append(in.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, &node)
	return nil
}

func dropKey(in *yaml.Node, key string) {
	for i := 0; i+1 < len(in.Content); i += 2 {
		if in.Content[i].Value == key {
			in.Content = slices.Delete(in.Content, i, i+2)
			return
		}
	}
}
