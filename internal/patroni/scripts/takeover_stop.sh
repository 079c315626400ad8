# postgres.takeover.stop MAJOR NAME: stops a cluster of Debian's own, and keeps it
# from starting at boot: from now on Patroni does that.
set -eu
start=/etc/postgresql/$1/$2/start.conf
if [ -f "$start" ] && ! grep -qx disabled "$start"; then
	printf '# Patroni starts this database; the pgha provider has taken it over.\ndisabled\n' >"$start"
fi
systemctl stop --no-ask-password "postgresql@$1-$2.service"
# One that somebody started by hand is not the unit's.
if [ "$(pg_lsclusters -h | awk -v major="$1" -v name="$2" '$1 == major && $2 == name { print $4 }' | cut -c1-6)" = online ]; then
	pg_ctlcluster --skip-systemctl-redirect --force "$1" "$2" stop
fi
