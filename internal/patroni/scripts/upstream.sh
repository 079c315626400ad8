# postgres.upstream BINDIR HOSTS PORT USER ROOTCERT: logs in to a server as a standby
# does, and prints its system identifier, timeline and location. The password comes on
# standard input.
set -eu
cd /
IFS= read -r PGPASSWORD
export PGPASSWORD
export PGCONNECT_TIMEOUT=5
exec "$1/psql" -XAtc IDENTIFY_SYSTEM "host=$2 port=$3 user=$4 dbname=postgres replication=1 sslmode=verify-ca sslrootcert=$5"
