# postgres.* PORT SOCKETDIR DATABASE, statement on standard input: rows, a line each.
set -eu
cd /
PGCONNECT_TIMEOUT=5 PGAPPNAME=pgha exec "$psql" -XAtq -F '	' -h "$2" -p "$1" -d "$3" -v ON_ERROR_STOP=1
