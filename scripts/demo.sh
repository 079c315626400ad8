#!/usr/bin/env bash
# Builds a PostgreSQL cluster on three bare Debian hosts on this machine, from
# examples/quickstart. Usage:
#
#   scripts/demo.sh up       the hosts, the cluster, and how to use it
#   scripts/demo.sh status   the members, as they are now
#   scripts/demo.sh down     removes all of it
#
# Running "up" again completes what is missing and changes nothing else. The
# environment can set LAB (the lab's name) and DIR (where the files go).

# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

LAB=${LAB:-demo}
DIR=${DIR:-.demo}
begin=$SECONDS

lab() {
	local command=$1
	shift
	go run ./lab "$command" --name "$LAB" "$@"
}

# tf FOLDER ARGUMENT... runs the CLI in one of the demo's folders.
tf() {
	local folder=$1
	shift
	"$CLI" -chdir="$DIR/$folder" "$@"
}

# quietly COMMAND... shows what a command printed only if it fails.
quietly() {
	local out
	if ! out=$("$@" 2>&1); then
		printf '%s\n' "$out" >&2
		return 1
	fi
}

# first PACKAGE is the older of its versions that the hosts can install, without
# Debian's part: so there is one to upgrade to.
first() { lab pool "$1" | sed 's/^[^:]*: //; s/,.*//; s/-[^-]*$//'; }

failed() {
	cat >&2 <<EOF

The demo failed. Nothing was cleaned up, so that you can look:
  the hosts           go run ./lab ssh --name $LAB pg1
  Terraform's files   $DIR (for its commands: . $DIR/env)
Running it again goes on where it stopped. To remove everything: make demo-down
EOF
}

lab_up() {
	say "Three bare Debian hosts"
	lab up dc1=pg1,pg2,pg3
	mkdir -p "$DIR"
	DIR=$(cd "$DIR" && pwd)
	local known
	known=$(lab env | sed -n "s/^export PGHA_SSH_KNOWN_HOSTS_FILE='\(.*\)'$/\1/p")
	# Other host keys are other hosts: the state is about ones that are gone.
	if [ -e "$DIR/quickstart/terraform.tfstate" ] && ! cmp -s "$known" "$DIR/known_hosts"; then
		say "The hosts are new: starting with an empty state"
		rm -rf "$DIR/quickstart" "$DIR/status"
	fi
	cp "$known" "$DIR/known_hosts"
	{
		lab env
		printf "export TF_CLI_CONFIG_FILE='%s/cli.tfrc' CHECKPOINT_DISABLE=1\n" "$DIR"
	} >"$DIR/env"
	# shellcheck disable=SC1091 # made just now
	. "$DIR/env"
}

provider() {
	say "The provider"
	cat >"$DIR/cli.tfrc" <<EOF
provider_installation {
  filesystem_mirror {
    path = "$DIR/plugins"
  }
}
EOF
	mirror "$DIR/plugins"
	printf 'built for %s\n' "$("$CLI" version | head -n 1)"
}

# prepare FOLDER takes an example over and makes it ready.
prepare() {
	mkdir -p "$DIR/$1"
	cp -u "examples/$1"/*.tf "$DIR/$1/"
	# It has the checksum of the provider as it was built before.
	rm -f "$DIR/$1/.terraform.lock.hcl"
	quietly tf "$1" init -input=false
}

quickstart() {
	say "The cluster, from examples/quickstart"
	prepare quickstart
	local net
	net=$(lab status | awk '$2 == "pg1" { split($4, part, "."); print part[1] "." part[2] }')
	{
		echo "hosts = {"
		lab status | awk '$2 ~ /^pg[123]$/ { printf "  %s = \"%s\"\n", $2, $4 }'
		echo "}"
		echo "allowed_networks = [\"$net.0.0/16\"]"
		printf 'versions = { etcd = "%s", patroni = "%s", postgresql = "%s" }\n' \
			"$(first etcd-server)" "$(first patroni)" "$(first postgresql-17)"
	} >"$DIR/quickstart/lab.auto.tfvars"
	cat >"$DIR/quickstart/lab_override.tf" <<'EOF'
# The lab's hosts have the clock of this machine: none of them has to keep it.
resource "pgha_host" "db" {
  time_sync = "off"
}
EOF
	tf quickstart plan -no-color -input=false -out=plan >"$DIR/plan.txt" || {
		cat "$DIR/plan.txt" >&2
		return 1
	}
	grep -E '^(Plan:|No changes)' "$DIR/plan.txt" || :
	echo "(all of it: $DIR/plan.txt)"
	echo
	tf quickstart apply -no-color -input=false plan | sed '/^Outputs:/,$d; /^$/d'
}

# look asks the cluster.
look() { quietly tf status apply -no-color -input=false -auto-approve; }

status() {
	look
	tf status output -raw table
}

# settled waits until all replicas are said to stream: what Patroni tells is as
# of its last loop, and after a start that is a while ago.
settled() {
	local n
	for n in {1..30}; do
		look
		if [ "$(tf status output -raw table | grep -cw streaming)" = 2 ]; then
			return
		fi
		sleep 1
	done
	say "Not all replicas stream yet, after $n s"
}

# account makes a user for the demo. It is made on the leader's host, by the
# operating system's user postgres; the password travels on standard input.
account() {
	if [ ! -s "$DIR/pgpass" ]; then
		(umask 077 && printf '*:*:*:demo:%s\n' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >"$DIR/pgpass")
	fi
	lab ssh "$(tf status output -raw leader)" runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1 <<EOF
select 'create role demo' where not exists (select from pg_roles where rolname = 'demo') \gexec
alter role demo with login createdb password '$(cut -d: -f5 "$DIR/pgpass")';
EOF
	tf quickstart output -raw ca_certificate >"$DIR/ca.crt"
}

up() {
	need_go
	find_cli
	need psql postgresql-client
	trap '[ "$?" = 0 ] || failed' EXIT
	lab_up
	provider
	quickstart
	say "Its members"
	prepare status
	settled
	tf status output -raw table
	account
	local here=${DIR#"$PWD"/} conninfo
	conninfo="$(tf quickstart output -raw conninfo) user=demo sslrootcert=$here/ca.crt"
	say "A connection to the primary, from this machine"
	PGPASSFILE=$here/pgpass psql -X -A -t -c "select format('connected to %s as %s, %s', host(inet_server_addr()), current_user, version) from pg_stat_ssl where pid = pg_backend_pid()" "$conninfo"
	cat <<EOF

That took $((SECONDS - begin)) s. Now you can
  connect:        PGPASSFILE=$here/pgpass psql "$conninfo"
  see who leads:  make demo-status
  cut the power:  go run ./lab kill --name $LAB $(tf status output -raw leader)    (and: go run ./lab start ...)
  plan a change:  . $here/env; cd $here/quickstart; \$EDITOR main.tf; $CLI plan
  remove it all:  make demo-down
EOF
}

case ${1:-} in
up) up ;;
status)
	need_go
	find_cli
	[ -e "$DIR/env" ] || die "there is no demo in $DIR: run make demo"
	DIR=$(cd "$DIR" && pwd)
	# shellcheck disable=SC1091
	. "$DIR/env"
	status
	;;
down)
	need_go
	lab down
	rm -rf "$DIR"
	;;
*) die "usage: $0 up|status|down" ;;
esac
