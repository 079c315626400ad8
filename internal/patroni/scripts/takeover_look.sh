# postgres.takeover MAJOR NAME: what a cluster of Debian's own is like: where it
# is and what it runs with. It changes nothing. Runs as postgres.
set -eu
cd /
out() { printf '%s=%s\n' "$1" "$2"; }
line=$(pg_lsclusters -h 2>/dev/null | awk -v major="$1" -v name="$2" '$1 == major && $2 == name')
[ "$line" ] || exit 0
set -- $line
out port "$3"
out status "$4"
out data "$6"
case $4 in
online*) ;;
*) exit 0 ;;
esac
PGCONNECT_TIMEOUT=5 "$psql" -XAtq -h /var/run/postgresql -p "$3" -d postgres -v ON_ERROR_STOP=1 <<'SQL'
select 'system=' || system_identifier from pg_control_system();
select 'standby=' || pg_is_in_recovery();
select 'version=' || current_setting('server_version_num');
select 'replicas=' || count(*) from pg_stat_replication;
select 'now.' || name || '=' || translate(encode(convert_to(setting, 'UTF8'), 'base64'), E'\n', '') from pg_settings
 where name in ('max_connections', 'max_worker_processes', 'max_prepared_transactions', 'max_locks_per_transaction', 'max_wal_senders', 'max_replication_slots', 'wal_level');
select 'set.' || name || '=' || translate(encode(convert_to(setting, 'UTF8'), 'base64'), E'\n', '') from pg_file_settings where applied;
select 'hba=' || translate(encode(pg_read_binary_file(current_setting('hba_file')), 'base64'), E'\n', '');
SQL
