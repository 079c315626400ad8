# postgres.aside DATADIR: puts a database that never became one aside, as Patroni
# does where it may rename the folder. Nothing is deleted, and nothing is moved
# under a server that runs.
set -eu
if [ -f "$1/postmaster.pid" ] && kill -0 "$(head -n 1 "$1/postmaster.pid")" 2>/dev/null; then
	echo "a server runs in $1" >&2
	exit 1
fi
mv -T -- "$1" "$1.failed-$(date -u +%Y%m%dT%H%M%SZ)"
