# postgres.clone BINDIR DATADIR HOSTS PORT USER ROOTCERT: copies another site's database in
# place of the one in DATADIR, whose server does not run. What was there is kept until the
# copy is whole, and put back if it does not become so. The password comes on standard
# input.
set -eu
cd /
bin=$1 data=$2 hosts=$3 port=$4 user=$5 ca=$6
IFS= read -r PGPASSWORD
export PGPASSWORD
# Whoever asked may be gone while a copy goes on: two of them would delete each other's.
mkdir -p /run/lock/pgha
exec 9>/run/lock/pgha/clone
if ! flock -n 9; then
	echo "a copy that was begun before is still under way" >&2
	exit 1
fi
if [ -f "$data/postmaster.pid" ] && kill -0 "$(head -n 1 "$data/postmaster.pid")" 2>/dev/null; then
	echo "a server runs in $data" >&2
	exit 1
fi
if [ -e "$data.before-clone" ]; then # a run that was cut off
	rm -rf -- "$data"
else
	mv -T -- "$data" "$data.before-clone"
fi
install -d -o postgres -g postgres -m 0700 -- "$data"
if ! runuser -u postgres -- "$bin/pg_basebackup" -D "$data" -X stream -c fast -w \
	-d "host=$hosts port=$port user=$user sslmode=verify-ca sslrootcert=$ca" >&2; then
	rm -rf -- "$data"
	mv -T -- "$data.before-clone" "$data"
	exit 1
fi
rm -rf -- "$data.before-clone"
