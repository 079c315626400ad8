# postgres.settings PORT SOCKETDIR NAME...: what the running server says about
# parameters, a line each: name, value, whether it waits for a restart, source.
# Asked over the local socket as the operating system's own user.
set -eu
port=$1
dir=$2
shift 2
list=
for name in "$@"; do
	case $name in *[!A-Za-z0-9_.$]*) exit 64 ;; esac
	list="$list${list:+,}'$(printf %s "$name" | tr '[:upper:]' '[:lower:]')'"
done
cd /
PGCONNECT_TIMEOUT=5 exec "$psql" -XAtq -F '	' -h "$dir" -p "$port" -d postgres -v ON_ERROR_STOP=1 <<SQL
select name, current_setting(name), pending_restart, source from pg_settings where lower(name) in ($list);
SQL
