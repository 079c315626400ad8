# Answers questions about this host, one a line on standard input: a verb, a
# space, an argument. Answers are lines "N.field=value", N being the number of
# the question. It changes nothing. Programs that many questions need run once.
set -u
n=0
newline='
'
out() { printf '%s.%s=%s\n' "$n" "$1" "$2"; }
# line FIELD FILE prints the first line of a file.
line() {
	value=
	if [ -r "$2" ]; then read -r value <"$2"; fi
	out "$1" "$value"
}
os() {
	(
		[ -r /etc/os-release ] && . /etc/os-release
		out ID "${ID:-}"
		out VERSION_ID "${VERSION_ID:-}"
		out VERSION_CODENAME "${VERSION_CODENAME:-}"
		out PRETTY_NAME "${PRETTY_NAME:-}"
	)
	out arch "$(dpkg --print-architecture 2>/dev/null || uname -m)"
	out kernel "$(uname -r)"
	out hostname "$(uname -n)"
	line machine_id /etc/machine-id
	line boot_id /proc/sys/kernel/random/boot_id
	out cpus "$(nproc 2>/dev/null)"
	line init /proc/1/comm
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
# holds reports whether there is anything in a directory.
holds() {
	for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
		if [ -e "$entry" ] || [ -L "$entry" ]; then return 0; fi
	done
	return 1
}
path() {
	meta=
	if [ -L "$1" ]; then
		out type link
		out target "$(readlink -- "$1")"
	elif [ -f "$1" ]; then
		out type file
		sum=$(sha256sum <"$1") && out sha256 "${sum%% *}"
		meta=$(stat -c "$n.mode=%a
$n.owner=%U
$n.group=%G
$n.modified=%Y
$n.size=%s" -- "$1") && printf '%s\n' "$meta"
	elif [ -d "$1" ]; then
		out type dir
		stat -c "$n.mode=%a
$n.owner=%U
$n.group=%G" -- "$1"
		if holds "$1"; then out empty no; else out empty yes; fi
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
		size=${meta##*=}
		if [ -L "$1" ]; then size=$(stat -L -c %s -- "$1"); fi
		if [ "${size:-1048577}" -le 1048576 ]; then
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
# packages answers all questions about installed packages, each a line
# "number|package|NAME", or "number|source|NAME".
packages() {
	{
		printf '%s\n' "$1"
		dpkg-query -W -f '${Package}|${db:Status-Abbrev}|${source:Package}|${Version}\n' 2>/dev/null
	} | awk -F '|' '
		!asked && $0 == "" { asked = 1; next }
		!asked { numbers[$2 "|" $3] = numbers[$2 "|" $3] " " $1; next }
		("package|" $1) in numbers {
			count = split(numbers["package|" $1], list, " ")
			for (i = 1; i <= count; i++) print list[i] ".status=" $2 "\n" list[i] ".version=" $4
		}
		("source|" $3) in numbers && $2 ~ /^.i/ {
			count = split(numbers["source|" $3], list, " ")
			for (i = 1; i <= count; i++) print list[i] ".package=" $1 "=" $4
		}'
}
# Of all packages that are asked for.
available() {
	if [ -z "${madison:-}" ]; then
		# shellcheck disable=SC2086 # names of packages have neither spaces nor patterns
		madison=$(apt-cache madison -- $offered 2>/dev/null)$newline
	fi
	while IFS='| ' read -r name version _; do
		if [ "$name" = "$1" ]; then out version "$version"; fi
	done <<-END
		$madison
	END
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
	if [ -z "${listening:-}" ]; then listening=$(ss -Htlnp 2>/dev/null)$newline; fi
	while read -r _ _ _ address _ users; do
		if [ "${address##*:}" = "$1" ]; then out listen "$address $users"; fi
	done <<-END
		$listening
	END
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
questions=$(cat)
offered=''
installed=''
while IFS= read -r question; do
	n=$((n + 1))
	case $question in
	'available '*) offered="$offered ${question#* }" ;;
	'package '* | 'source '*) installed="$installed$n|${question%% *}|${question#* }$newline" ;;
	esac
done <<END
$questions
END
if [ "$installed" ]; then packages "$installed"; fi
n=0
while IFS= read -r question; do
	n=$((n + 1))
	argument=${question#* }
	case ${question%% *} in
	os) os ;;
	disk) disk "$argument" ;;
	path) path "$argument" ;;
	content) content "$argument" ;;
	list) list "$argument" ;;
	package | source) ;; # answered above
	available) available "$argument" ;;
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
done <<END
$questions
END
