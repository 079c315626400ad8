package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/pgha/terraform-provider-pgha/internal/provider"
)

// complete are configurations without a mistake, by resource.
func complete() map[string]object {
	access := object{"name": "dcs", "uid": "u", "tls": true, "auth": true, "client_port": 2379, "members": object{"a": "10.0.0.1"}}
	host := func(address string) object { return object{"name": "h" + address, "address": address} }
	return map[string]object{
		"pgha_host": {"name": "pg1", "address": "10.0.0.1"},
		"pgha_etcd_cluster": {"name": "dcs", "version": "3.5.16", "members": object{
			"a": object{"host": host("10.0.0.1")}, "b": object{"host": host("10.0.0.2")}, "c": object{"host": host("10.0.0.3")},
		}},
		"pgha_patroni_cluster": {"scope": "main", "etcd": access},
		"pgha_patroni_node": {
			"cluster": unknown{}, "host": host("10.0.0.1"), "name": "pg1", "versions": object{"postgresql": "17.11", "patroni": "4.0.7"},
		},
		"pgha_vip": {"cluster": unknown{}, "nodes": object{"pg1": "main/pg1"}, "address": "10.0.0.100/24", "version": "3.0.0"},
		"pgha_dns_record": {
			"cluster": unknown{}, "nodes": object{"pg1": "main/pg1"}, "zone": "pg.example.org", "name": "db", "servers": []any{"10.0.0.53"}, "key": tsig(object{}),
		},
	}
}

// tsig is a key with something changed about it.
func tsig(change object) object {
	k := object{"name": "pgha", "secret_wo": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "secret_wo_version": 1}
	for name, v := range change {
		k[name] = v
	}
	return k
}

// parameters is a cluster's PostgreSQL section with parameters.
func parameters(p object) object { return object{"parameters": p} }

func apt(repository object) object {
	full := object{"uris": []any{"http://x"}, "suites": []any{"trixie"}}
	for k, v := range repository {
		full[k] = v
	}
	return object{"repositories": object{"x": full}}
}

// Whatever can be told from the configuration alone is refused before anything
// is contacted, at the attribute that is wrong, with what is wrong about it.
func TestRefused(t *testing.T) {
	const (
		host, etcd, cluster, node = "pgha_host", "pgha_etcd_cluster", "pgha_patroni_cluster", "pgha_patroni_node"
		vip, record               = "pgha_vip", "pgha_dns_record"
		short                     = "short"
	)
	member := func(address any) object {
		return object{"host": object{"name": "x", "address": "10.0.0.9"}, "address": address}
	}
	members := func(n int) object {
		m := object{}
		for i := range n {
			m[string(rune('a'+i))] = object{"host": object{"name": "h", "address": "10.0.1." + string(rune('1'+i))}}
		}
		return m
	}
	hba := func(lines ...any) object { return object{"pg_hba": lines} }
	c := newCore(t, nil, nil)
	for _, r := range []struct {
		of, name string
		value    any
		at, says string
	}{
		{host, "name", "", "name", "between 1 and 63"},
		{host, "name", "a b", "name", "letters, digits"},
		{host, "name", "-a", "name", "begin and end with"},
		{host, "name", strings.Repeat("a", 64), "name", "between 1 and 63"},
		{host, "address", "10.0.0.1:22", "address", "no port"},
		{host, "address", "root@pg1", "address", "no user"},
		{host, "address", "10.0.0", "address", "neither an IP address nor"},
		{host, "address", "0.0.0.0", "address", "not the address of a host"},
		{host, "address", "[fd00::1]", "address", "no brackets"},
		{host, "address", "fe80::1%eth0", "address", "has a zone: eth0 is the name of an interface"},
		{host, "address", "::ffff:10.0.0.1", "address", "write it as 10.0.0.1"},
		{host, "hosts_entries", object{"db": "db.example.test"}, `hosts_entries["db"]`, "is not an IP address"},
		{host, "ssh", object{"port": 0}, "ssh.port", "between 1 and 65535"},
		{host, "ssh", object{"user": ""}, "ssh.user", "between 1 and 64"},
		{host, "ssh", object{"host_key": "a\nb"}, "ssh.host_key", "line breaks"},
		{host, "ssh", object{"bastions": []any{"a, b"}}, "ssh.bastions[0]", "[user@]host[:port]"},
		{host, "preflight", object{"enforce": "maybe"}, "preflight.enforce", "one of"},
		{host, "preflight", object{"min_cpus": 0}, "preflight.min_cpus", "at least 1"},
		{host, "preflight", object{"min_memory": "1 lot"}, "preflight.min_memory", "size"},
		{host, "preflight", object{"max_clock_skew": "soon"}, "preflight.max_clock_skew", "duration"},
		{host, "preflight", object{"disk_path": "var/lib"}, "preflight.disk_path", "not an absolute path"},
		{host, "preflight", object{"free_ports": []any{70000}}, "preflight.free_ports[0]", "between 1 and 65535"},
		{host, "apt", object{"repositories": object{"A B": object{"uris": []any{"x"}, "suites": []any{"x"}}}}, `apt.repositories["A B"]`, "lower-case"},
		{host, "apt", apt(object{"uris": []any{}}), `apt.repositories["x"].uris`, "at least 1"},
		{host, "apt", apt(object{"suites": []any{"a b"}}), `apt.repositories["x"].suites[0]`, "must not have spaces"},
		{host, "apt", apt(object{"signing_key": "x"}), `apt.repositories["x"].signing_key`, "armoured PGP public key"},
		{host, "apt", apt(object{"signing_key_path": "x"}), `apt.repositories["x"].signing_key_path`, "not an absolute path"},
		{host, "apt", object{"proxy": `http://x"; evil`}, "apt.proxy", "http or https URL"},
		{host, "sysctl", object{"vm.swappiness; reboot": "1"}, `sysctl["vm.swappiness; reboot"]`, "kernel setting"},
		{host, "sysctl", object{"vm.swappiness": "1\n2"}, `sysctl["vm.swappiness"]`, "line breaks"},
		{host, "max_open_files", -1, "max_open_files", "between 0"},
		{host, "time_sync", "ntp", "time_sync", "one of"},
		{host, "hosts_entries", object{"a b": "10.0.0.1"}, `hosts_entries["a b"]`, "host name"},
		{host, "hosts_entries", object{"a": "10.0.0.1 evil"}, `hosts_entries["a"]`, "is not an IP address"},

		{etcd, "name", "a/b", "name", "letters, digits"},
		{etcd, "version", "3.5", "version", "is not a version of etcd, such as 3.5.16"},
		{etcd, "version", "3.6.4", "version", "never tried with this release"},
		{etcd, "version", "3.5.1-2", "version", "can corrupt its data"},
		{etcd, "version", "latest", "version", "exact version"},
		{etcd, "version", ">= 3.5", "version", "exact version"},
		{etcd, "members", object{}, "members", "at least 1"},
		{etcd, "members", members(8), "members", "at most 7"},
		{etcd, "members", object{"a b": member("10.0.0.1")}, `members["a b"]`, "letters, digits"},
		{etcd, "members", object{"a": member("no port:1")}, `members["a"].address`, "no port"},
		{etcd, "members", object{"a": member("10.0.0.1"), "b": member("10.0.0.1"), "c": member("10.0.0.3")}, `members["b"]`, "both have the address 10.0.0.1"},
		{etcd, "members", object{"a": member("fd00::1"), "b": member("FD00:0::1"), "c": member("fd00::3")}, `members["b"]`, "both have the address fd00::1"},
		{etcd, "client_port", 65536, "client_port", "between 1 and 65535"},
		{etcd, "peer_port", -1, "peer_port", "between 1 and 65535"},
		{etcd, "heartbeat_interval", "100ms", "heartbeat_interval", "election_timeout"},
		{etcd, "election_timeout", "1s", "election_timeout", "heartbeat_interval"},
		{etcd, "quota_backend_bytes", "1GB", "quota_backend_bytes", "not a size"},
		{etcd, "quota_backend_bytes", "15MiB", "quota_backend_bytes", "16MiB"},
		{etcd, "quota_backend_bytes", "9GiB", "quota_backend_bytes", "8GiB"},
		{etcd, "auto_compaction_retention", "-1h", "auto_compaction_retention", "duration"},
		{etcd, "certificates", object{"renew_before": "1h"}, "certificates.renew_before", "at least 24h"},
		{etcd, "certificates", object{"renew_before": "9000h"}, "certificates.renew_before", "(360 days)"},
		{etcd, "certificates", object{"renew_before": "30d"}, "certificates.renew_before", "not a duration"},
		{etcd, "certificates", object{"authority": "a b"}, "certificates.authority", "1 to 32 letters"},
		{etcd, "certificates", object{"authority": strings.Repeat("a", 33)}, "certificates.authority", "1 to 32 letters"},
		{etcd, "certificates", object{"files": files(nil), "renew_before": "48h"}, "certificates.renew_before", "whoever makes the files does"},
		{etcd, "certificates", object{"files": files(nil), "authority": "2026"}, "certificates.authority", "whoever makes the files does"},
		{etcd, "certificates", object{"files": files(object{"trusted": "ca.crt"})}, "certificates.files.trusted", "not a whole path"},
		{etcd, "certificates", object{"files": files(object{"trusted": "/root/ca.crt"})}, "certificates.files.trusted", "cannot see it"},
		{etcd, "certificates", object{"files": files(object{"trusted": "/etc/ssl/{member}.crt"})}, "certificates.files.trusted", "has characters in it"},
		{etcd, "certificates", object{"files": files(object{"trusted": "/etc/ssl/../x"})}, "certificates.files.trusted", "not a plain path"},
		{etcd, "certificates", object{"files": files(object{"trusted": "/etc/ssl/a b"})}, "certificates.files.trusted", "has characters in it"},
		{etcd, "certificates", object{"files": files(object{"peer": object{"certificate": "/p.crt", "key": "/p.key", "common_name": "a\"b"}})}, "certificates.files.peer.common_name", "cannot be the common name"},
		{etcd, "certificates", object{"files": files(nil), "patroni_files": object{"trusted": "/ca.crt"}}, "certificates.patroni_files", "give both certificate and key"},
		{etcd, "certificates", object{"patroni_files": object{"trusted": "/ca.crt", "key": "/x.key"}}, "certificates.patroni_files", "give both certificate and key"},
		{etcd, "certificates", object{"files": files(object{"trusted": "/etc/ssl/{name}-ca.crt"}), "patroni_files": object{"trusted": "/ca.crt", "key": "/x.key", "certificate": "/x.crt"}}, "", ""},
		{etcd, "certificates", object{"patroni_files": object{"trusted": "/ca.crt"}}, "", ""},
		{etcd, "snapshot_count", 999, "snapshot_count", "between 1000"},
		{etcd, "on_destroy", "delete", "on_destroy", "one of"},

		{cluster, "citus", object{"group": 1, "database": "shop", "extension_version": "13.2-1"}, "citus.extension_version", "the coordinator's"},
		{cluster, "citus", object{"group": 0, "database": "shop", "extension_version": "13.2.2"}, "citus.extension_version", "not that of the package"},
		{cluster, "scope", "a b", "scope", "letters, digits"},
		{cluster, "namespace", "service", "namespace", "begin and end with '/'"},
		{cluster, "failure_detection", "slow", "failure_detection", "one of"},
		{cluster, "ttl", "19s", "ttl", "at least 20 s"},
		{cluster, "ttl", "25s", "ttl", "must not be more than ttl"},
		{cluster, "loop_wait", "0s", "loop_wait", "at least 1 s"},
		{cluster, "retry_timeout", "1500ms", "retry_timeout", "whole number of seconds"},
		{cluster, "maximum_lag_on_failover", "-1", "maximum_lag_on_failover", "size"},
		{cluster, "max_timelines_history", -1, "max_timelines_history", "at least 0"},
		{cluster, "synchronous_mode", "yes", "synchronous_mode", "one of"},
		{cluster, "synchronous_node_count", 0, "synchronous_node_count", "at least 1"},
		{cluster, "slots", object{"A": object{"type": "physical"}}, `slots["A"]`, "lower-case"},
		{cluster, "slots", object{"a": object{"type": "virtual"}}, `slots["a"].type`, "one of"},
		{cluster, "slots", object{"a": object{"type": "logical"}}, `slots["a"]`, "needs database and plugin"},
		{cluster, "slots", object{"a": object{"type": "physical", "plugin": "x"}}, `slots["a"]`, "neither database nor plugin"},
		{cluster, "ignore_slots", []any{}, "ignore_slots", "at least 1"},
		{cluster, "postgresql", parameters(object{"work_mem": "lots"}), `postgresql.parameters["work_mem"]`, "work_mem"},
		{cluster, "postgresql", parameters(object{"no_such_parameter": "1"}), `postgresql.parameters["no_such_parameter"]`, "no_such_parameter"},
		{cluster, "postgresql", parameters(object{"listen_addresses": "*"}), `postgresql.parameters["listen_addresses"]`, "Patroni sets it"},
		{cluster, "postgresql", parameters(object{"max_connections": "10"}), `postgresql.parameters["max_connections"]`, "at least 25"},
		{cluster, "postgresql", parameters(object{"archive_command": "a\nb"}), `postgresql.parameters["archive_command"]`, "must not contain line breaks"},
		{cluster, "postgresql", parameters(object{"my.own": "a\nb"}), `postgresql.parameters["my.own"]`, "must not contain line breaks"},
		{cluster, "postgresql", object{"callbacks": object{"on_start": "a\nb"}}, `postgresql.callbacks["on_start"]`, "line breaks"},
		{cluster, "postgresql", object{"recovery_conf": object{"restore_command": "a\nb"}}, `postgresql.recovery_conf["restore_command"]`, "line breaks"},
		{cluster, "postgresql", object{"recovery_conf": object{"restore_command": "x %Y"}}, `postgresql.recovery_conf["restore_command"]`, `has "%Y" in it`},
		{cluster, "slots", object{"a": object{"type": "logical", "plugin": "x", "database": "a\nb"}}, `slots["a"].database`, "line breaks"},
		{cluster, "ignore_slots", []any{object{"name": "a\nb"}}, `ignore_slots[0].name`, "line breaks"},
		{cluster, "postgresql", parameters(object{"work_mem": nil}), `postgresql.parameters["work_mem"]`, "has no value"},
		{cluster, "postgresql", parameters(object{"work_mem": "4MB", "WORK_MEM": "8MB"}), `postgresql.parameters["work_mem"]`, "are the same parameter"},
		{cluster, "postgresql", hba("local all all peer"), "postgresql.pg_hba", "replicate"},
		{cluster, "postgresql", hba("a line of nothing"), "postgresql.pg_hba", "must be one of local, host"},
		{cluster, "postgresql", object{"callbacks": object{"on_monday": "x"}}, `postgresql.callbacks["on_monday"]`, "one of"},
		{cluster, "postgresql", object{"create_replica_methods": []any{"wal_g"}}, "postgresql.create_replica_methods[0]", "nor described in replica_methods"},
		{cluster, "postgresql", object{"replica_methods": object{"parameters": object{"command": "x"}}}, `postgresql.replica_methods["parameters"]`, "none of"},
		{cluster, "postgresql", object{"recovery_conf": object{"primary_conninfo": "x"}}, `postgresql.recovery_conf["primary_conninfo"]`, "one of"},
		{cluster, "failsafe_mode", true, "rest_api_allowlist", "the networks of all nodes"},
		{cluster, "allowed_networks", []any{"10.0.0.1/24"}, "allowed_networks[0]", "the network is 10.0.0.0/24"},
		{cluster, "allowed_networks", []any{"everybody"}, "allowed_networks[0]", "not a network"},
		{cluster, "rest_api_port", 5432, "", ""}, // the other port is a default, which nobody knows yet
		{cluster, "rest_api_allowlist", []any{""}, "rest_api_allowlist[0]", "at least 1"},
		{cluster, "initdb", object{"locale": "C; rm"}, "initdb.locale", "name of a locale"},
		{cluster, "initdb", object{"encoding": "UTF 8"}, "initdb.encoding", "name of an encoding"},
		{cluster, "credentials", object{"superuser": object{"password_wo": short, "password_wo_version": 1}}, "credentials.superuser.password_wo", "between 8 and 256"},
		{cluster, "credentials", object{"rotation": -1}, "credentials.rotation", "at least 0"},
		{cluster, "credentials", object{"superuser": object{"password_wo": "long enough"}}, "credentials.superuser.password_wo", "password_wo_version"},
		{cluster, "credentials", object{"rewind": object{"password_wo_version": 1}}, "credentials.rewind.password_wo_version", "password_wo"},
		{cluster, "credentials", object{"rest_api": object{"password_wo": "pässword", "password_wo_version": 1}}, "credentials.rest_api.password_wo", "of ASCII"},
		{cluster, "credentials", object{"superuser": object{"password_wo": "pass\nword", "password_wo_version": 1}}, "credentials.superuser.password_wo", "of ASCII"},
		{cluster, "postgresql", hba(`hostssl "a b all all samenet trust`), "postgresql.pg_hba", "a quote that does not end"},
		{cluster, "credentials", object{"replication": object{"username": "postgres"}}, "credentials.replication.username", "none of"},
		{cluster, "credentials", object{"replication": object{"username": "A-b"}}, "credentials.replication.username", "lower-case"},

		{node, "name", "a_", "name", "letters, digits"},
		{node, "address", "a b", "address", "host name"},
		{node, "versions", object{"postgresql": "17", "patroni": "4.0.7"}, "versions.postgresql", "exact version"},
		{node, "versions", object{"postgresql": "17.11", "patroni": "4.x"}, "versions.patroni", "exact version"},
		{node, "versions", object{"postgresql": "17.11", "patroni": "4.0.7", "citus": "13"}, "versions.citus", "exact version"},
		{node, "versions", object{"postgresql": "17.11", "patroni": "4.0.7", "extensions": object{"pgvector": "latest"}}, `versions.extensions["pgvector"]`, "exact version"},
		{node, "versions", object{"postgresql": "17.11", "patroni": "4.0.7", "extensions": object{"pg vector": "0.8.0"}}, `versions.extensions["pg vector"]`, "name of an extension's package"},
		{node, "versions", object{"postgresql": "17.11", "patroni": "4.0.7", "extensions": object{"citus": "13.2.2"}}, `versions.extensions["citus"]`, "attribute of its own"},
		{node, "data_directory", "pg", "data_directory", "not an absolute path"},
		{node, "data_directory", "/srv/../etc/x", "data_directory", "not a plain path"},
		{node, "data_directory", "/srv/pg/", "data_directory", "not a plain path"},
		{node, "data_directory", "/srv", "data_directory", "too close to the root"},
		{node, "data_directory", "/srv/p\ng", "data_directory", "line breaks"},
		{node, "data_directory", "/srv/$(reboot)", "data_directory", `has "$" in it, which pg_ctl cannot be given`},
		{node, "data_directory", "/srv/`x`", "data_directory", "has \"`\" in it"},
		{node, "data_directory", `/srv/"x`, "data_directory", "has \"\\\"\" in it"},
		{node, "data_directory", `/srv/\x`, "data_directory", `has "\\" in it`},
		{node, "data_directory", "/srv/it's a ü & co; (1) #*?", "", ""},
		{node, "tags", object{"failover_priority": -1}, "tags.failover_priority", "at least 0"},
		{node, "tags", object{"nofailover": true, "failover_priority": 1}, "tags.failover_priority", "ignores failover_priority"},
		{node, "tags", object{"replicatefrom": "pg1"}, "tags.replicatefrom", "from itself"},
		{node, "tags", object{"custom": object{"nosync": "true"}}, `tags.custom["nosync"]`, "one of Patroni's own tags"},
		{node, "watchdog", "on", "watchdog", "one of"},
		{node, "watchdog_device", "/dev/null", "watchdog_device", "/dev/watchdog"},
		{node, "watchdog_device", "/dev/watchdog1", "watchdog_device", "has no meaning without watchdog"},
		{node, "watchdog_safety_margin", "1500ms", "watchdog_safety_margin", "whole"},
		{node, "on_destroy", "", "on_destroy", "one of"},

		{vip, "address", "10.0.0.100", "address", "the length of its subnet's prefix"},
		{vip, "address", "10.0.0.0/24", "address", "the subnet itself"},
		{vip, "address", "127.0.0.2/8", "address", "not an address that clients could use"},
		{vip, "version", "1.0.2-9", "version", "knows only version 2 of etcd's API"},
		{vip, "version", "newest", "version", "no version of vip-manager"},
		{vip, "follow", "primary", "follow", "one of"},
		{vip, "nodes", object{}, "nodes", "at least 1"},
		{vip, "interface", strings.Repeat("x", 16), "interface", "between 1 and 15"},

		{record, "name", "db.other.org.", "name", "is not below the zone"},
		{record, "name", "pg.example.org", "name", "is not below the zone"},
		{record, "name", "db.pg.example.org", "", ""},
		{record, "name", "a b", "name", "is no name of DNS"},
		{record, "zone", "pg..org", "zone", "is no name of DNS"},
		{record, "type", "A", "type", "one of"},
		{record, "ttl", -1, "ttl", "between 0 and 86400"},
		{record, "follow", "primary", "follow", "one of"},
		{record, "servers", []any{}, "servers", "at least 1"},
		{record, "servers", []any{"ns1.example.org"}, "servers[0]", "is no address of a server"},
		{record, "servers", []any{"10.0.0.53:99999"}, "servers[0]", "is no address of a server"},
		{record, "key", tsig(object{"algorithm": "hmac-md5"}), "key.algorithm", "one of"},
		{record, "key", tsig(object{"secret_wo": "c2hvcnQ="}), "key.secret_wo", "at least 16"},
		{record, "key", tsig(object{"secret_wo": "not base64"}), "key.secret_wo", "not base64"},
		{record, "key", tsig(object{"secret_wo_version": nil}), "key.secret_wo", "secret_wo_version"},
		{record, "targets", object{"pg9": []any{"10.0.0.9"}}, `targets["pg9"]`, "is not in nodes"},
	} {
		res := c.resource(r.of)
		got := errorsIn(res.validate(value(res.typ, with(complete()[r.of], r.name, r.value))))
		switch {
		case r.at == "" && got != "":
			t.Errorf("%s, %s = %v is refused: %s", r.of, r.name, r.value, got)
		case !strings.HasPrefix(got, r.at) || r.at != "" && !strings.HasPrefix(got[len(r.at):], ": "):
			t.Errorf("%s, %s = %v: the error is %q, want one at %s", r.of, r.name, r.value, got, r.at)
		case !strings.Contains(got, r.says):
			t.Errorf("%s, %s = %v: the error is %q, want %q", r.of, r.name, r.value, got, r.says)
		}
	}
	for name, config := range complete() {
		res := c.resource(name)
		if got := errorsIn(res.validate(value(res.typ, config))); got != "" {
			t.Errorf("%s is refused although nothing is wrong: %s", name, got)
		}
	}
}

// A new cluster has to let its own nodes in; only an imported one may leave pg_hba
// alone.
func TestNoNetworks(t *testing.T) {
	c := newCore(t, nil, nil)
	res := c.resource("pgha_patroni_cluster")
	_, _, diags := res.plan(with(complete()["pgha_patroni_cluster"], "allowed_networks", []any{}))
	if got := errorsIn(diags); !strings.HasPrefix(got, "allowed_networks: ") || !strings.Contains(got, "at least one network") {
		t.Errorf("the error is %q", got)
	}
}

// What two attributes make of each other.
func TestRefusedTogether(t *testing.T) {
	c := newCore(t, nil, nil)
	for _, r := range []struct {
		of, at, says string
		change       object
	}{
		{"pgha_etcd_cluster", "election_timeout", "five heartbeats", object{"heartbeat_interval": "1s", "election_timeout": "4s"}},
		{"pgha_etcd_cluster", "election_timeout", "at most 50s", object{"heartbeat_interval": "1s", "election_timeout": "51s"}},
		{"pgha_etcd_cluster", "peer_port", "must differ", object{"client_port": 2379, "peer_port": 2379}},
		{"pgha_patroni_cluster", "ttl", "20 + 2 * 10 = 40 > 30", object{"loop_wait": "20s"}},
		{"pgha_patroni_cluster", "ttl", "10 + 2 * 20 = 50 > 30", object{"failure_detection": "wide", "ttl": "30s"}},
		{"pgha_patroni_cluster", "synchronous_mode_strict", "no meaning", object{"synchronous_mode": "off", "synchronous_mode_strict": true}},
		{"pgha_patroni_cluster", "rest_api_port", "must differ", object{"postgresql_port": 8008, "rest_api_port": 8008}},
	} {
		config := complete()[r.of]
		for k, v := range r.change {
			config[k] = v
		}
		res := c.resource(r.of)
		if got := errorsIn(res.validate(value(res.typ, config))); !strings.HasPrefix(got, r.at+": ") || !strings.Contains(got, r.says) {
			t.Errorf("%s %v: the error is %q, want %q at %s", r.of, r.change, got, r.says, r.at)
		}
	}
}

// The provider block, likewise.
func TestRefusedProvider(t *testing.T) {
	c := newCore(t, nil, nil)
	typ := c.schemas.Provider.ValueType()
	said := func(config object) string {
		v := value(typ, config)
		resp, err := c.server.ValidateProviderConfig(t.Context(), &tfprotov6.ValidateProviderConfigRequest{Config: c.dynamic(typ, v)})
		if err != nil {
			t.Fatal(err)
		}
		if errorsIn(resp.Diagnostics) != "" {
			return errorsIn(resp.Diagnostics)
		}
		again, err := providerserver.NewProtocol6(provider.New("test", nil)())().ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{TerraformVersion: "1.11.0", Config: c.dynamic(typ, v)})
		if err != nil {
			t.Fatal(err)
		}
		return errorsIn(again.Diagnostics)
	}
	ssh := func(name string, v any) object { return object{"ssh": object{name: v}} }
	bastion := func(b object) object { return ssh("bastions", []any{b}) }
	for _, r := range []struct {
		config   object
		at, says string
	}{
		{object{"on_unreachable": "ignore"}, "on_unreachable", "one of"},
		{object{"progress_file": "/no/such/folder/x"}, "progress_file", "no such file"},
		{ssh("user", ""), "ssh.user", "at least 1"},
		{ssh("port", 0), "ssh.port", "between 1 and 65535"},
		{ssh("private_key", "x"), "ssh", ""},
		{ssh("private_key_file", "/no/such/key"), "ssh.private_key_file", "no such file"},
		{object{"ssh": object{"private_key": "x", "private_key_file": "y"}}, "ssh.private_key", "private_key_file"},
		{ssh("host_key_policy", "trust"), "ssh.host_key_policy", "one of"},
		{ssh("known_hosts_file", "/no/such/file"), "ssh.known_hosts_file", "no such file"},
		{ssh("become", "su"), "ssh.become", "one of"},
		{bastion(object{"host": "a:22"}), "ssh.bastions[0].host", "no port"},
		{bastion(object{"host": "a", "port": 0}), "ssh.bastions[0].port", "between 1 and 65535"},
		{bastion(object{"host": "a", "host_key": "x\ny"}), "ssh.bastions[0].host_key", "line breaks"},
		{ssh("bastions", []any{object{"host": "a"}, object{"host": "b"}, object{"host": "c"}, object{"host": "d"}, object{"host": "e"}}), "ssh.bastions", "at most 4"},
		{ssh("connect_timeout", "soon"), "ssh.connect_timeout", "duration"},
		{ssh("boot_timeout", "5"), "ssh.boot_timeout", "duration"},
		{ssh("max_connections", 0), "ssh.max_connections", "between 1 and 1000"},
	} {
		if got := said(r.config); !strings.HasPrefix(got, r.at+": ") || !strings.Contains(got, r.says) {
			t.Errorf("%v: the error is %q, want %q at %s", r.config, got, r.says, r.at)
		}
	}
	for name, text := range map[string]string{"PGHA_SSH_PORT": "many", "PGHA_SSH_CONNECT_TIMEOUT": "soon", "PGHA_SSH_AGENT": "perhaps", "PGHA_SSH_BASTIONS": "a:b:c:d@"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, text)
			if got := said(object{}); !strings.Contains(got, name) {
				t.Errorf("%s=%s: the error is %q", name, text, got)
			}
		})
	}
}

// Who does not check host keys is told so on every run, where people see it; who
// does is not bothered.
func TestInsecureWarns(t *testing.T) {
	for policy, warned := range map[string]bool{"insecure": true, "strict": false} {
		s := providerserver.NewProtocol6(provider.New("test", nil)())()
		c := newCore(t, nil, nil)
		typ := c.schemas.Provider.ValueType()
		resp, err := s.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{
			TerraformVersion: "1.11.0", Config: c.dynamic(typ, value(typ, object{"ssh": object{"host_key_policy": policy}})),
		})
		if err != nil {
			t.Fatal(err)
		}
		got := told(resp.Diagnostics, tfprotov6.DiagnosticSeverityWarning)
		if strings.HasPrefix(got, "ssh.host_key_policy: Host keys are not checked") != warned || (got != "") != warned {
			t.Errorf("%s: the warning is %q", policy, got)
		}
	}
}

// The functions' results and refusals.
func TestFunctions(t *testing.T) {
	c := newCore(t, nil, nil)
	for _, f := range []struct {
		name    string
		hosts   []any
		db      string
		attrs   string
		options []string
		want    string // the result, or a part of the error
		fails   bool
	}{
		{"conninfo", []any{"10.0.0.1", "pg2:5433", "fd00::3", "[fd00::4]:5434"}, "app", "read-write", nil, "host=10.0.0.1,pg2,fd00::3,fd00::4 port=5432,5433,5432,5434 dbname=app target_session_attrs=read-write connect_timeout=3", false},
		{"conninfo", []any{"a"}, `my 'db\`, "any", []string{"sslmode=verify-full", "connect_timeout=9", "options=-c a=b"}, `host=a port=5432 dbname='my \'db\\' target_session_attrs=any sslmode=verify-full connect_timeout=9 options='-c a=b'`, false},
		{"jdbc_url", []any{"10.0.0.1", "fd00::3"}, "a b?c", "prefer-standby", []string{"ssl=true", "user=a&b"}, "jdbc:postgresql://10.0.0.1:5432,[fd00::3]:5432/a%20b%3Fc?targetServerType=preferSecondary&ssl=true&user=a%26b&connectTimeout=3", false},
		{"conninfo", []any{}, "app", "any", nil, "at least one node", true},
		{"conninfo", []any{"a b"}, "app", "any", nil, "not the address of a node", true},
		{"conninfo", []any{"a:0"}, "app", "any", nil, "not the address of a node", true},
		{"jdbc_url", []any{"a"}, "app", "master", nil, "it must be one of any, read-write", true},
		{"jdbc_url", []any{"a"}, "app", "any", []string{"novalue"}, "not of the form key=value", true},
	} {
		list := tftypes.List{ElementType: tftypes.String}
		arguments := []*tfprotov6.DynamicValue{
			c.dynamic(list, value(list, f.hosts)), c.dynamic(tftypes.String, value(tftypes.String, f.db)), c.dynamic(tftypes.String, value(tftypes.String, f.attrs)),
		}
		for _, o := range f.options {
			arguments = append(arguments, c.dynamic(tftypes.String, value(tftypes.String, o)))
		}
		resp, err := c.server.CallFunction(t.Context(), &tfprotov6.CallFunctionRequest{Name: f.name, Arguments: arguments})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case f.fails && (resp.Error == nil || !strings.Contains(resp.Error.Text, f.want)):
			t.Errorf("%s %v: the error is %v, want %q", f.name, f.hosts, resp.Error, f.want)
		case f.fails:
		case resp.Error != nil:
			t.Errorf("%s %v: %s", f.name, f.hosts, resp.Error.Text)
		default:
			if got := plain(c.static(tftypes.String, resp.Result)); got != f.want {
				t.Errorf("%s is\n%s\nwant\n%s", f.name, got, f.want)
			}
		}
	}
}

// files are certificates that somebody else makes, with some attributes changed.
func files(change object) object {
	f := object{"server": object{"certificate": "/etc/ssl/server.crt", "key": "/etc/ssl/server.key"}, "trusted": "/etc/ssl/ca.crt"}
	for k, v := range change {
		f[k] = v
	}
	return f
}
