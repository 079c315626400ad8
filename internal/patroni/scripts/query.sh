# postgres.* PORT SOCKETDIR, statement on standard input: rows, a line each.
set -eu
cd /
PGCONNECT_TIMEOUT=5 exec psql -XAtq -F '	' -h "$2" -p "$1" -d postgres -v ON_ERROR_STOP=1
