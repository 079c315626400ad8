# Answers questions about this host, one a line on standard input: a verb, a
# space, an argument. Answers are lines "N.field=value", N being the number of
# the question. It changes nothing.
set -u
n=0
out() { printf '%s.%s=%s\n' "$n" "$1" "$2"; }
os() {
	for field in ID VERSION_ID VERSION_CODENAME PRETTY_NAME; do
		out "$field" "$(. /etc/os-release 2>/dev/null; eval "printf %s \"\${$field:-}\"")"
	done
	out arch "$(dpkg --print-architecture 2>/dev/null || uname -m)"
	out kernel "$(uname -r)"
	out hostname "$(uname -n)"
	out machine_id "$(cat /etc/machine-id 2>/dev/null)"
	out boot_id "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
	out cpus "$(nproc 2>/dev/null)"
	out init "$(cat /proc/1/comm 2>/dev/null)"
	while IFS=': ' read -r key value _; do
		case $key in
		MemTotal) out memory_kib "$value" ;;
		MemAvailable) out memory_available_kib "$value" ;;
		SwapTotal) out swap_kib "$value" ;;
		HugePages_Total) out hugepages "$value" ;;
		esac
	done </proc/meminfo
}
disk() {
	dir=$1
	while [ ! -e "$dir" ] && [ "$dir" != / ]; do dir=$(dirname -- "$dir"); done
	out at "$dir"
	df -Pk -- "$dir" 2>/dev/null | {
		read -r _
		read -r _ size _ free _ mount
		out size_kib "$size"
		out free_kib "$free"
		out mount "$mount"
	}
	out writable "$([ -w "$dir" ] && echo yes || echo no)"
	out filesystem "$(stat -f -c %T -- "$dir" 2>/dev/null)"
}
path() {
	if [ -L "$1" ]; then
		out type link
		out target "$(readlink -- "$1")"
	elif [ -f "$1" ]; then
		out type file
		sum=$(sha256sum <"$1") && out sha256 "${sum%% *}"
		stat -c "$n.mode=%a
$n.owner=%U
$n.group=%G
$n.size=%s
$n.modified=%Y" -- "$1"
	elif [ -d "$1" ]; then
		out type dir
		stat -c "$n.mode=%a
$n.owner=%U
$n.group=%G" -- "$1"
		out empty "$([ -z "$(ls -A -- "$1" | head -n 1)" ] && echo yes || echo no)"
	elif [ -e "$1" ]; then
		out type other
		stat -c "$n.mode=%a
$n.owner=%U
$n.group=%G" -- "$1"
	else
		out type missing
	fi
}
content() {
	path "$1"
	if [ -f "$1" ]; then
		if [ "$(stat -L -c %s -- "$1")" -le 1048576 ]; then
			out content "$(base64 -w0 <"$1")"
		else
			out toolarge yes
		fi
	fi
}
list() {
	if [ -d "$1" ]; then
		out entries "$(ls -A1 -- "$1" | head -n 1000 | base64 -w0)"
	fi
}
package() {
	dpkg-query -W -f '${db:Status-Abbrev}|${Version}\n' -- "$1" 2>/dev/null | {
		IFS='|' read -r status version || exit 0
		out status "$status"
		out version "$version"
	}
}
built_from() {
	dpkg-query -W -f '${db:Status-Abbrev}|${source:Package}|${Package}|${Version}\n' 2>/dev/null |
		awk -F '|' -v "name=$1" '$1 ~ /^.i/ && $2 == name { print $3 "=" $4 }' | sort -u | while IFS= read -r line; do
		out package "$line"
	done
}
available() {
	apt-cache madison -- "$1" 2>/dev/null | while IFS='| ' read -r _ version _; do
		out version "$version"
	done
}
unit() {
	systemctl show --no-pager -p LoadState -p ActiveState -p SubState -p UnitFileState -p NeedDaemonReload \
		-p MainPID -p NRestarts -p Result -p FragmentPath -p ExecMainStartTimestamp -p InvocationID \
		-- "$1" 2>/dev/null | while IFS= read -r line; do
		printf '%s.%s\n' "$n" "$line"
	done
}
process() {
	pid=$(systemctl show --no-pager -p MainPID --value -- "$1" 2>/dev/null)
	if [ "${pid:-0}" -gt 0 ] 2>/dev/null && [ -d "/proc/$pid" ]; then
		out arguments "$(base64 -w0 <"/proc/$pid/cmdline" 2>/dev/null)"
		out environment "$(base64 -w0 <"/proc/$pid/environ" 2>/dev/null)"
		out program "$(readlink -- "/proc/$pid/exe" 2>/dev/null)"
		out account "$(stat -c %U -- "/proc/$pid" 2>/dev/null)"
		out started "$(date -d "$(systemctl show --no-pager -p ExecMainStartTimestamp --value -- "$1" 2>/dev/null)" +%s 2>/dev/null)"
	fi
}
port() {
	ss -Htlnp "sport = :$1" 2>/dev/null | while read -r _ _ _ address _ users; do
		out listen "$address $users"
	done
}
addresses() {
	ip -o addr show scope global 2>/dev/null | while read -r _ interface _ address _; do
		out address "$interface $address"
	done
}
lookup() {
	start=$(date +%s%N)
	timeout 15 getent hosts -- "$1" >/dev/null 2>&1
	out ms $((($(date +%s%N) - start) / 1000000))
}
resolve() {
	timeout 5 getent ahosts -- "$1" 2>/dev/null | while read -r address kind _; do
		if [ "$kind" = STREAM ]; then out address "$address"; fi
	done
}
clock() {
	out now "$(date +%s%N)"
}
# That starts a service on the host.
synchronized() {
	out synchronized "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)"
}
time_service() {
	out service "$(for s in chrony ntpsec ntp systemd-timesyncd openntpd; do
		systemctl is-active --quiet "$s" 2>/dev/null && printf %s "$s" && break
	done)"
}
debian() {
	# Used: there is a file of a table or of a database that initdb did not make
	# (PostgreSQL numbers those from 16384 on), or a tablespace.
	for conf in /etc/postgresql/*/*/postgresql.conf; do
		[ -f "$conf" ] || continue
		cluster=${conf%/postgresql.conf}
		version=${cluster%/*}
		data=$(sed -n "s/^[[:space:]]*data_directory[[:space:]]*=[[:space:]]*'\([^']*\)'.*/\1/p" "$conf" | tail -n 1)
		listens=$(sed -n 's/^[[:space:]]*port[[:space:]]*=[[:space:]]*\([0-9]*\).*/\1/p' "$conf" | tail -n 1)
		[ "$data" ] || data=/var/lib/postgresql/${version##*/}/${cluster##*/}
		used=$(find "$data/base" "$data/pg_tblspc" -mindepth 1 -maxdepth 2 -printf '%f\n' 2>/dev/null |
			awk -F '[._]' '$1 ~ /^[0-9]+$/ && $1 >= 16384 { print "yes"; exit }')
		out cluster "${version##*/}|${cluster##*/}|${listens:-5432}|$([ -e "$data/postmaster.pid" ] && echo yes)|$used|$data"
	done
}
account() { id -u -- "$1" >/dev/null 2>&1 && out uid "$(id -u -- "$1")"; }
kernel_setting() { out value "$(sysctl -n -- "$1" 2>/dev/null | tr '\t' ' ')"; }
checkout_tool() { command -v -- "$1" >/dev/null 2>&1 && out path "$(command -v -- "$1")"; }
while IFS= read -r question; do
	n=$((n + 1))
	argument=${question#* }
	case ${question%% *} in
	os) os ;;
	disk) disk "$argument" ;;
	path) path "$argument" ;;
	content) content "$argument" ;;
	list) list "$argument" ;;
	package) package "$argument" ;;
	available) available "$argument" ;;
	source) built_from "$argument" ;;
	unit) unit "$argument" ;;
	process) process "$argument" ;;
	port) port "$argument" ;;
	addresses) addresses ;;
	lookup) lookup "$argument" ;;
	resolve) resolve "$argument" ;;
	clock) clock ;;
	synchronized) synchronized ;;
	time_service) time_service ;;
	debian) debian ;;
	account) account "$argument" ;;
	sysctl) kernel_setting "$argument" ;;
	tool) checkout_tool "$argument" ;;
	*) out error "unknown question" ;;
	esac </dev/null
done
