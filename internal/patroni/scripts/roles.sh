# postgres.roles PORT SOCKETDIR DATABASE, statements on standard input: run as the operating
# system's own user. They set passwords: nothing of them is logged, kept in
# statistics or shown to who looks at activity, and an error does not quote them.
set -eu
cd /
{
	cat <<'SQL'
\set VERBOSITY terse
\set SHOW_CONTEXT never
set track_activities = off;
set log_statement = 'none';
set log_min_duration_statement = -1;
set log_min_duration_sample = -1;
set log_transaction_sample_rate = 0;
set log_min_error_statement = 'panic';
set pg_stat_statements.track_utility = off;
set pgaudit.log = 'none';
SQL
	cat
} | PGCONNECT_TIMEOUT=5 exec "$psql" -XAtq -F '	' -h "$2" -p "$1" -d "$3" -v ON_ERROR_STOP=1
