# postgres.control BINDIR DATADIR: what the data directory of a stopped server
# says about itself.
set -eu
cd /
LC_ALL=C exec "$1/pg_controldata" -D "$2"
