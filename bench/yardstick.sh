#!/usr/bin/env bash
# The yardstick for deploy_3_nodes: from bare Debian hosts to a PostgreSQL
# cluster under Patroni, with a leader and streaming replicas, without
# Terraform. It is what an admin who knows the tools would write who is in a
# hurry and does not have to do it a second time:
#
# - One SSH connection per host (ControlMaster), and all hosts at once
#   wherever the order allows it.
# - One apt transaction per host for all packages, at the wanted versions and
#   held, with no service started and no cluster made by Debian's packages.
# - Meanwhile, on this machine: certificate authorities for etcd and for the
#   cluster, certificates for etcd's clients and peers, Patroni's REST API and
#   PostgreSQL, passwords, configuration files. They go to each host in one
#   archive.
# - etcd with TLS and client certificates, then its authentication, with a user
#   for Patroni that may use its own prefix only.
# - Patroni with its own default timing (loop_wait 10). The first node alone,
#   the others when it leads: started together they would find nothing to clone
#   and sleep through a turn of their loops. Clones ask for a fast checkpoint.
# - Kernel settings, limits and units as the provider sets them.
#
# It ends when the leader sees every replica stream. What it leaves on the hosts
# is compared with what the provider leaves by bench/inspect.sh.
#
# It does not do what makes the provider's work repeatable: look first, note what
# it did, lock, resume, check the configuration, copy the authorities' keys.
#
# In the environment: SSH_CONFIG (a file for ssh -F that knows the hosts by
# name), HOSTS ("pg1=10.0.0.1 pg2=10.0.0.2 ..."), NETWORK (who may connect),
# ETCD_VERSION, PATRONI_VERSION, POSTGRES_VERSION (such as 17.11).
set -euo pipefail
umask 077

scope=main
major=${POSTGRES_VERSION%%.*}
declare -A address
names=()
for entry in $HOSTS; do
	names+=("${entry%%=*}")
	address[${entry%%=*}]=${entry#*=}
done
first=${names[0]}

work=$(mktemp -d)
ssh=(ssh -F "$SSH_CONFIG" -o BatchMode=yes -o ControlMaster=auto -o ControlPath="$work/%C" -o ControlPersist=300)
cleanup() {
	trap - EXIT
	for name in "${names[@]}"; do
		"${ssh[@]}" -O exit "$name" 2>/dev/null || :
	done
	rm -rf -- "$work"
}
trap cleanup EXIT
trap 'exit 130' HUP INT TERM

# on HOST FUNCTION ARGUMENT... runs one of the functions below on a host.
on() {
	local host=$1
	shift
	"${ssh[@]}" "$host" "$(declare -f "$1"); set -eu; $(printf '%q ' "$@")"
}

# everywhere FUNCTION ARGUMENT... does so on all hosts at once, and leaves the
# waiting to "settled".
jobs=()
everywhere() {
	for name in "${names[@]}"; do
		on "$name" "$@" </dev/null &
		jobs+=($!)
	done
}
settled() {
	local job
	for job in "${jobs[@]}"; do
		wait "$job"
	done
	jobs=()
}

say() { printf '%s %s\n' "$(date +%T.%N | cut -c-12)" "$*"; }

## On the hosts

packages() {
	local etcd=$1 patroni=$2 postgres=$3 major=${3%%.*}
	export DEBIAN_FRONTEND=noninteractive
	mkdir -p /etc/postgresql-common/createcluster.d /etc/systemd/system/etcd.service.d /etc/systemd/system/patroni.service.d
	echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/ha.conf
	cat >/etc/sysctl.d/90-database.conf <<-'END'
		vm.dirty_background_bytes = 67108864
		vm.dirty_bytes = 536870912
		vm.swappiness = 1
	END
	sysctl -q -p /etc/sysctl.d/90-database.conf 2>/dev/null || : # in a container some are not ours to set
	for user in postgres etcd; do
		printf '%s soft nofile 65536\n%s hard nofile 65536\n' "$user" "$user"
	done >/etc/security/limits.d/90-database.conf
	# Here before the packages are, so that systemd need not be told.
	cat >/etc/systemd/system/etcd.service.d/ha.conf <<-'END'
		[Service]
		TimeoutStartSec=infinity
		Restart=always
		RestartSec=2s
		OOMScoreAdjust=-900
	END
	cat >/etc/systemd/system/patroni.service.d/ha.conf <<-'END'
		[Unit]
		StartLimitIntervalSec=0
		[Service]
		TimeoutStopSec=900
		Restart=on-failure
		RestartSec=5s
		LimitNOFILE=65536
		OOMScoreAdjust=-900
		Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj
		Environment=PG_OOM_ADJUST_VALUE=0
	END
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	apt-get -qq update
	apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold install \
		"etcd-server=$etcd-*" "etcd-client=$etcd-*" "patroni=$patroni-*" python3-etcd openssl \
		"postgresql-$major=$postgres-*" "postgresql-client-$major=$postgres-*" >/dev/null
	apt-mark -qq hold etcd-server etcd-client patroni "postgresql-$major" "postgresql-client-$major" >/dev/null
}

# The archive with certificates and configuration is on standard input.
start_etcd() {
	tar -x --no-same-owner --no-overwrite-dir -C /
	chown -R root:etcd /etc/etcd
	chown -R root:postgres /etc/patroni
	chmod 750 /etc/etcd /etc/patroni
	chmod 640 /etc/etcd/* /etc/patroni/*
	install -d -o etcd -g etcd -m 700 /var/lib/etcd/dcs
	install -d -o postgres -g postgres -m 700 "/var/lib/postgresql/$1" "/var/lib/postgresql/$1/main"
	systemctl start etcd # returns when the member has a quorum
}

# The passwords of etcd's root and of Patroni's user are on standard input.
protect_etcd() {
	local root patroni scope=$1
	read -r root
	read -r patroni
	export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=/etc/etcd/ca.crt
	export ETCDCTL_CERT=/etc/patroni/etcd.crt ETCDCTL_KEY=/etc/patroni/etcd.key
	etcdctl --interactive=false user add root <<<"$root"
	etcdctl user grant-role root root
	etcdctl role add patroni
	etcdctl role grant-permission patroni readwrite --prefix=true "/service/$scope/"
	etcdctl --interactive=false user add patroni <<<"$patroni"
	etcdctl user grant-role patroni patroni
	etcdctl auth enable
}

lead() {
	systemctl start patroni
	until printf 'GET /leader HTTP/1.0\r\n\r\n' | openssl s_client -quiet -connect 127.0.0.1:8008 2>/dev/null | grep -q '^HTTP.* 200 '; do
		sleep 0.1
	done
}

clone() { systemctl start patroni; }

# What pg_basebackup takes along streams, too, and is no replica.
streaming() {
	cd /
	until [ "$(runuser -u postgres -- psql -XAtqc "select count(*) from pg_stat_replication where state = 'streaming' and application_name <> 'pg_basebackup'")" = "$1" ]; do
		sleep 0.1
	done
}

## On this machine

password() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# authority NAME makes one in a folder of that name.
authority() {
	mkdir "$work/$1"
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$1" -addext keyUsage=critical,keyCertSign,cRLSign \
		-keyout "$work/$1/ca.key" -out "$work/$1/ca.crt" 2>/dev/null
}

# certificate AUTHORITY FILE SUBJECT USAGES [NAMES] makes FILE.key and FILE.crt.
certificate() {
	local extensions=(-addext "keyUsage=critical,digitalSignature,keyAgreement" -addext "extendedKeyUsage=$4")
	[ $# -lt 5 ] || extensions+=(-addext "subjectAltName=$5")
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 397 -subj "$3" -addext basicConstraints=critical,CA:FALSE \
		"${extensions[@]}" -CA "$work/$1/ca.crt" -CAkey "$work/$1/ca.key" -keyout "$2.key" -out "$2.crt" 2>/dev/null
}

# etcd_defaults NAME prints the file that Debian's unit reads.
etcd_defaults() {
	local ip=${address[$1]} members=() name
	for name in "${names[@]}"; do
		members+=("$name=https://${address[$name]}:2380")
	done
	cat <<-END
		ETCD_NAME="$1"
		ETCD_DATA_DIR="/var/lib/etcd/dcs"
		ETCD_LISTEN_PEER_URLS="https://$ip:2380"
		ETCD_LISTEN_CLIENT_URLS="https://$ip:2379,https://127.0.0.1:2379"
		ETCD_INITIAL_ADVERTISE_PEER_URLS="https://$ip:2380"
		ETCD_ADVERTISE_CLIENT_URLS="https://$ip:2379"
		ETCD_INITIAL_CLUSTER="$(IFS=, && echo "${members[*]}")"
		ETCD_INITIAL_CLUSTER_STATE="new"
		ETCD_INITIAL_CLUSTER_TOKEN="dcs-$token"
		ETCD_QUOTA_BACKEND_BYTES="2147483648"
		ETCD_AUTO_COMPACTION_MODE="periodic"
		ETCD_AUTO_COMPACTION_RETENTION="1h"
		ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK="true"
		ETCD_CERT_FILE="/etc/etcd/server.crt"
		ETCD_KEY_FILE="/etc/etcd/server.key"
		ETCD_TRUSTED_CA_FILE="/etc/etcd/ca.crt"
		ETCD_CLIENT_CERT_AUTH="true"
		ETCD_PEER_CERT_FILE="/etc/etcd/peer.crt"
		ETCD_PEER_KEY_FILE="/etc/etcd/peer.key"
		ETCD_PEER_TRUSTED_CA_FILE="/etc/etcd/ca.crt"
		ETCD_PEER_CLIENT_CERT_AUTH="true"
		ETCD_PEER_CERT_ALLOWED_CN="etcd-peer"
	END
}

# patroni_config NAME prints its configuration.
patroni_config() {
	local ip=${address[$1]} name user verify="sslmode: verify-ca, sslrootcert: /etc/patroni/ca.crt"
	cat <<-END
		scope: $scope
		namespace: /service/
		name: $1
		restapi:
		  listen: 0.0.0.0:8008
		  connect_address: $ip:8008
		  certfile: /etc/patroni/node.crt
		  keyfile: /etc/patroni/node.key
		  cafile: /etc/patroni/ca.crt
		  authentication: {username: patroni, password: ${passwords[api]}}
		  allowlist: [127.0.0.1, '::1']
		  allowlist_include_members: true
		ctl:
		  cacert: /etc/patroni/ca.crt
		etcd3:
		  protocol: https
		  cacert: /etc/patroni/etcd-ca.crt
		  cert: /etc/patroni/etcd.crt
		  key: /etc/patroni/etcd.key
		  username: patroni
		  password: ${passwords[etcd]}
		  hosts:
	END
	for name in "${names[@]}"; do
		echo "  - ${address[$name]}:2379"
	done
	cat <<-END
		bootstrap:
		  dcs:
		    ttl: 30
		    loop_wait: 10
		    retry_timeout: 10
		    check_timeline: true
		    synchronous_mode: quorum
		    postgresql:
		      use_pg_rewind: true
		      parameters: {max_connections: '200'}
		      pg_hba:
		      - local all all peer
		      - hostssl replication replicator samehost scram-sha-256
		      - hostssl replication replicator $NETWORK scram-sha-256
		      - hostssl all all $NETWORK scram-sha-256
		  initdb: [{encoding: UTF8}, {locale: C.UTF-8}, data-checksums]
		postgresql:
		  listen: 0.0.0.0:5432
		  connect_address: $ip:5432
		  data_dir: /var/lib/postgresql/$major/main
		  bin_dir: /usr/lib/postgresql/$major/bin
		  pgpass: /var/lib/postgresql/pgpass.patroni
		  use_unix_socket: true
		  authentication:
		    superuser: {username: postgres, password: ${passwords[superuser]}, $verify}
		    replication: {username: replicator, password: ${passwords[replication]}, $verify}
		    rewind: {username: rewind_user, password: ${passwords[rewind]}, $verify}
		  parameters:
		    unix_socket_directories: /var/run/postgresql
		    ssl: 'on'
		    ssl_cert_file: /etc/patroni/node.crt
		    ssl_key_file: /etc/patroni/node.key
		    ssl_ca_file: /etc/patroni/ca.crt
		  basebackup: [{checkpoint: fast}]
		watchdog: {mode: 'off'}
	END
}

# bundle NAME makes the archive for a host.
bundle() {
	local root=$work/root-$1 all="IP:${address[$1]},DNS:localhost,IP:127.0.0.1,IP:::1,DNS:$1"
	mkdir -p "$root/etc/etcd" "$root/etc/patroni" "$root/etc/default"
	certificate etcd "$root/etc/etcd/server" /O=etcd-server serverAuth,clientAuth "$all"
	certificate etcd "$root/etc/etcd/peer" /CN=etcd-peer serverAuth,clientAuth "IP:${address[$1]}"
	certificate etcd "$root/etc/patroni/etcd" /O=patroni-node clientAuth
	certificate patroni "$root/etc/patroni/node" /O=patroni-node serverAuth,clientAuth "$all"
	cp "$work/etcd/ca.crt" "$root/etc/etcd/ca.crt"
	cp "$work/etcd/ca.crt" "$root/etc/patroni/etcd-ca.crt"
	cp "$work/patroni/ca.crt" "$root/etc/patroni/ca.crt"
	etcd_defaults "$1" >"$root/etc/default/etcd"
	patroni_config "$1" >"$root/etc/patroni/config.yml"
	tar -C "$root" -cf "$work/$1.tar" etc/etcd etc/patroni etc/default/etcd
}

say "packages"
everywhere packages "$ETCD_VERSION" "$PATRONI_VERSION" "$POSTGRES_VERSION"

token=$(password)
declare -A passwords
for user in root etcd superuser replication rewind api; do
	passwords[$user]=$(password)
done
authority etcd
authority patroni
for name in "${names[@]}"; do
	bundle "$name"
done
settled

say "etcd"
for name in "${names[@]}"; do
	on "$name" start_etcd "$major" <"$work/$name.tar" &
	jobs+=($!)
done
settled
on "$first" protect_etcd "$scope" <<<"${passwords[root]}
${passwords[etcd]}" >/dev/null

say "the first node"
on "$first" lead </dev/null

say "its replicas"
for name in "${names[@]:1}"; do
	on "$name" clone </dev/null &
	jobs+=($!)
done
settled
on "$first" streaming $((${#names[@]} - 1)) </dev/null
say "done"
