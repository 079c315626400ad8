package connattr

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
	"github.com/pgha/terraform-provider-pgha/internal/host"
)

// The ids with which resources are imported say how to reach them: an import has
// nothing else to go by. Each is its own name, and after an "@" the id of what it
// is on:
//
//	pgha_host             pg1=10.0.0.1
//	pgha_etcd_cluster     dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3
//	pgha_patroni_cluster  main@dcs@pg1=10.0.0.1,...
//	pgha_patroni_node     pg1=10.0.0.1@main@dcs@pg1=10.0.0.1,...
//
// A group of a Citus formation, and a node of one, have its number after the scope:
// main:1@dcs@pg1=10.0.0.1,... .
//
// Where a host is reached in another way than the provider block says, that
// follows its address as in an access object: pg1=10.0.0.1?user=admin&port=2222.

// ParseHostID reads NAME=ADDRESS.
func ParseHostID(id string) (host.Target, error) {
	m, name, err := parseNamed(id)
	if err != nil {
		return host.Target{}, err
	}
	t := m.Target
	if t.Name != name || t.Address != m.Address {
		return t, fmt.Errorf("%q: a host has one name and one address", id)
	}
	return t, nil
}

// ParseEtcdID reads NAME@MEMBER=ADDRESS,...
func ParseEtcdID(id string) (name string, members map[string]etcd.Member, err error) {
	name, list, ok := strings.Cut(id, "@")
	if !ok || name == "" || list == "" {
		return "", nil, fmt.Errorf("%q is not of the form NAME@MEMBER=ADDRESS,MEMBER=ADDRESS,... (dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3)", id)
	}
	members = map[string]etcd.Member{}
	for _, part := range strings.Split(list, ",") {
		m, member, err := parseNamed(part)
		if err != nil {
			return "", nil, err
		}
		if _, twice := members[member]; twice {
			return "", nil, fmt.Errorf("%q names the member %s twice", id, member)
		}
		members[member] = m
	}
	return name, members, nil
}

// ClusterID is what the id of a Patroni cluster says.
type ClusterID struct {
	Namespace, Scope string
	Group            *int // of a Citus formation
	// Nodes are hosts that run nodes of the cluster, where none of etcd's does.
	Nodes map[string]etcd.Member
	Etcd  string
	// Members are etcd's.
	Members map[string]etcd.Member
}

// With returns the id with a node added.
func (c ClusterID) With(name string, at etcd.Member) ClusterID {
	nodes := map[string]etcd.Member{name: at}
	for k, v := range c.Nodes {
		nodes[k] = v
	}
	c.Nodes = nodes
	return c
}

// ParseClusterID reads [NAMESPACE]SCOPE[:GROUP][@NODE=ADDRESS,...]@ETCD@MEMBER=ADDRESS,...
func ParseClusterID(id string) (c ClusterID, err error) {
	parts := strings.Split(id, "@")
	if len(parts) != 3 && len(parts) != 4 || parts[0] == "" {
		return c, fmt.Errorf("%q is not of the form SCOPE@ETCD@MEMBER=ADDRESS,... (main@dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3)", id)
	}
	c.Namespace, c.Scope = "/service/", parts[0]
	if i := strings.LastIndexByte(parts[0], '/'); i >= 0 {
		c.Namespace, c.Scope = parts[0][:i+1], parts[0][i+1:]
	}
	if scope, number, grouped := strings.Cut(c.Scope, ":"); grouped {
		group, err := strconv.Atoi(number)
		if err != nil || group < 0 || scope == "" {
			return c, fmt.Errorf("%q: the number of a Citus group follows the scope, as in main:1", id)
		}
		c.Scope, c.Group = scope, &group
	}
	if len(parts) == 4 {
		if _, c.Nodes, err = ParseEtcdID("nodes@" + parts[1]); err != nil {
			return c, err
		}
	}
	c.Etcd, c.Members, err = ParseEtcdID(strings.Join(parts[len(parts)-2:], "@"))
	return c, err
}

// ParseNodeID reads NODE=ADDRESS@CLUSTER. An address that clients and the other
// nodes use, but SSH does not, is written as NODE=ADDRESS?ssh=OTHER.
func ParseNodeID(id string) (name string, node etcd.Member, c ClusterID, err error) {
	own, cluster, ok := strings.Cut(id, "@")
	if !ok {
		return "", node, c, fmt.Errorf("%q is not of the form NODE=ADDRESS@SCOPE@ETCD@MEMBER=ADDRESS,... (pg1=10.0.0.1@main@dcs@pg1=10.0.0.1,pg2=10.0.0.2,pg3=10.0.0.3)", id)
	}
	if node, name, err = parseNamed(own); err != nil {
		return "", node, c, err
	}
	c, err = ParseClusterID(cluster)
	return name, node, c, err
}

func parseNamed(text string) (m etcd.Member, name string, err error) {
	name, rest, ok := strings.Cut(strings.TrimSpace(text), "=")
	if !ok || name == "" || rest == "" {
		return m, "", fmt.Errorf("%q is not of the form NAME=ADDRESS", text)
	}
	if m, err = parseMember(name, rest); err != nil {
		return m, "", fmt.Errorf("%q is not of the form NAME=ADDRESS?OPTION=VALUE&...: %w", text, err)
	}
	// An IPv6 address may be written as in a URL.
	if inner, ok := strings.CutPrefix(m.Address, "["); ok {
		if a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]")); err == nil {
			if m.Target.Address == m.Address {
				m.Target.Address = a.String()
			}
			m.Address = a.String()
		}
	}
	return m, name, nil
}

// EtcdID is the id of an etcd cluster, for messages.
func EtcdID(a etcd.Access) string {
	var parts []string
	for _, name := range a.Names() {
		parts = append(parts, name+"="+formatMember(name, a.Members[name]))
	}
	return a.Name + "@" + strings.Join(parts, ",")
}
