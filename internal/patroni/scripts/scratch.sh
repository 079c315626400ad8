# postgres.scratch MAJOR PORT SOCKETDIR PACKAGE=VERSION...: starts the server of other
# packages in a scratch directory, beside the one that runs and with all that is
# installed for that one, and loads the libraries that are in use. Nothing of it stays.
# It ends with 65 if one does not load, and says which on standard error; with 66 if
# there is no place on this host from which programs can be run.
set -eu
major=$1 port=$2 socket=$3
shift 3
dir=
for place in /var/lib/postgresql /usr/local/lib /opt; do
	dir=$(mktemp -d "$place/pgha-scratch.XXXXXX" 2>/dev/null) || continue
	# Filesystems are mounted noexec here and there.
	if cp /bin/true "$dir/true" && "$dir/true" 2>/dev/null; then break; fi
	rm -rf -- "$dir"
	dir=
done
[ "$dir" ] || {
	echo "programs can be run from none of /var/lib/postgresql, /usr/local/lib and /opt" >&2
	exit 66
}
root=$dir/root
bin=$root/usr/lib/postgresql/$major/bin
as_postgres() {
	(cd "$dir" && runuser -u postgres -- env LD_LIBRARY_PATH="$libraries" LC_ALL=C "$@")
}
libraries=
finish() {
	if [ -f "$dir/data/postmaster.pid" ]; then
		as_postgres "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true
	fi
	rm -rf -- "$dir"
}
trap finish EXIT
trap 'exit 130' HUP INT PIPE TERM
mkdir -p "$dir/debs" "$root/usr/lib/postgresql" "$root/usr/share/postgresql"
(cd "$dir/debs" && apt-get -q download -- "$@") >"$dir/log" 2>&1 || {
	cat "$dir/log" >&2
	exit 1
}
cp -as "/usr/lib/postgresql/$major" "$root/usr/lib/postgresql/"
cp -as "/usr/share/postgresql/$major" "$root/usr/share/postgresql/"
# A server finds its libraries by where its program really is.
cp -a --remove-destination "/usr/lib/postgresql/$major/bin/." "$bin/"
for deb in "$dir"/debs/*.deb; do
	dpkg-deb -x "$deb" "$root"
	chmod 0755 "$root" # which has the mode of the package's own topmost folder
done
libraries=$(find "$root/usr/lib" -maxdepth 2 -name 'libpq.so.5' -printf '%h' -quit)
chown postgres:postgres "$dir"
ask() {
	(cd / && runuser -u postgres -- "$psql" -XAtq -h "$socket" -p "$port" "$@" 2>/dev/null) || true
}
preload=$(ask -d postgres -c 'show shared_preload_libraries')
{
	ask -d postgres -c 'show session_preload_libraries' | tr ',' '\n'
	ask -d postgres -c 'show local_preload_libraries' | tr ',' '\n'
	ask -d postgres -c 'select datname from pg_database where datallowconn' | while IFS= read -r database; do
		ask -d "dbname='$(printf %s "$database" | sed "s/[\\\\']/\\\\&/g")'" -c 'select distinct probin from pg_proc where probin is not null'
	done
} | sed 's/^[[:space:]]*//; s/[[:space:]]*$//' | sort -u | grep . >"$dir/libraries" || true
as_postgres "$bin/initdb" -D "$dir/data" -U postgres -A trust --no-sync --no-instructions --locale=C >"$dir/log" 2>&1 || {
	cat "$dir/log" >&2
	exit 1
}
if ! as_postgres "$bin/pg_ctl" -D "$dir/data" -w -t 60 -s -l "$dir/data/log" -o "-c listen_addresses='' -c unix_socket_directories='$dir' -c shared_buffers=16MB -c max_connections=20 -c max_prepared_transactions=20 -c fsync=off -c shared_preload_libraries='$preload'" start >"$dir/log" 2>&1; then
	echo "the server does not start with shared_preload_libraries = '$preload'" >&2
	tail -n 10 "$dir/data/log" >&2
	exit 65
fi
status=0
while IFS= read -r library; do
	if ! said=$(printf "load :'library';\n" | as_postgres "$bin/psql" -XAtq -v ON_ERROR_STOP=1 -v "library=$library" -h "$dir" -U postgres -d postgres -f - 2>&1); then
		printf '%s: %s\n' "$library" "$said" >&2
		status=65
	fi
done <"$dir/libraries"
exit "$status"
