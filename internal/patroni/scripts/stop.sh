# postgres.stop BINDIR DATADIR SECONDS: stops a server that runs without Patroni.
set -eu
cd /
exec "$1/pg_ctl" stop -D "$2" -m fast -w -t "$3"
