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
	line kernel /proc/sys/kernel/osrelease
	line hostname /proc/sys/kernel/hostname
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
	while [ ! -e "${dir:=/}" ]; do dir=${dir%/*}; done
	out at "$dir"
	df -Pk -- "$dir" 2>/dev/null | {
		read -r _
		read -r _ size _ free _ mount
		out size_kib "$size"
		out free_kib "$free"
		out mount "$mount"
	}
	if [ -w "$dir" ]; then out writable yes; else out writable no; fi
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
	if [ -L "$1" ]; then
		out type link
		out target "$(readlink -- "$1")"
	elif [ -f "$1" ]; then
		out type file # the rest is answered with those of all files
	elif [ -d "$1" ]; then
		out type dir
		if holds "$1"; then out empty no; else out empty yes; fi
	elif [ -e "$1" ]; then
		out type other
	else
		out type missing
	fi
}
# contents packs the files that are asked for, but for large ones, all together.
contents() {
	printf '0.contents='
	find -L "$@" -prune -type f ! -size +2048 -print0 2>/dev/null |
		tar -chP --no-recursion --null -T - 2>/dev/null | base64 -w0
	printf '\n'
}
# files answers all questions about files and directories that are there, but
# for what the shell knows by itself. The parameters are their paths, without
# symbolic links, and before them "number|path" of each question, a line each.
files() {
	asked=$1
	shift
	{
		printf '%s\n' "$asked"
		stat -c '%F|%a|%U|%G|%Y|%s|%n' -- "$@" 2>/dev/null
		printf '\n'
		for name in "$@"; do
			shift
			[ ! -f "$name" ] || set -- "$@" "$name"
		done
		[ $# = 0 ] || sha256sum -- "$@" 2>/dev/null
	} | awk '
		{ bar = index($0, "|") }
		part == 0 && $0 != "" { numbers[substr($0, bar + 1)] = numbers[substr($0, bar + 1)] " " substr($0, 1, bar - 1); next }
		$0 == "" { part++; next }
		seen[part, $0]++ { next } # a path may be asked for twice
		part == 1 {
			split($0, is, "|")
			name = substr($0, length(is[1] is[2] is[3] is[4] is[5] is[6]) + 7)
			count = split(numbers[name], list, " ")
			for (i = 1; i <= count; i++) {
				print list[i] ".mode=" is[2] "\n" list[i] ".owner=" is[3] "\n" list[i] ".group=" is[4]
				if (is[1] ~ /^regular/) print list[i] ".modified=" is[5] "\n" list[i] ".size=" is[6]
			}
		}
		part == 2 {
			# A name with a backslash is written with two, and marked by one in front.
			if (substr($0, 1, 1) == "\\") {
				$0 = substr($0, 2)
				gsub(/\\\\/, "\\")
			}
			count = split(numbers[substr($0, 67)], list, " ")
			for (i = 1; i <= count; i++) print list[i] ".sha256=" substr($0, 1, 64)
		}'
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
# units answers all questions about units, whose numbers and names are given.
# systemd answers in their order, with an empty line between two, but passes over
# names that no unit can have; then each is asked for by itself.
units() {
	asked=$1
	shift
	states "$asked" "$@" || for name in "$@"; do
		states "${asked%% *}" "$name"
		asked=${asked#* }
	done
}
states() {
	numbers=$1
	shift
	systemctl show --no-pager -p LoadState -p ActiveState -p SubState -p UnitFileState -p NeedDaemonReload \
		-p MainPID -p NRestarts -p Result -p FragmentPath -p ExecMainStartTimestamp -p InvocationID \
		-- "$@" 2>/dev/null | awk -v numbers="$numbers" '
		BEGIN { count = split(numbers, list, " "); at = 1 }
		$0 == "" { at++; next }
		{ text = text list[at] "." $0 "\n" }
		END { if (text == "" || at != count) exit 1; printf "%s", text }'
}
process() {
	pid='' since=''
	while IFS='=' read -r key value; do
		case $key in
		MainPID) pid=$value ;;
		ExecMainStartTimestamp) since=$value ;;
		esac
	done <<-END
		$(systemctl show --no-pager -p MainPID -p ExecMainStartTimestamp -- "$1" 2>/dev/null)
	END
	if [ "${pid:-0}" -gt 0 ] 2>/dev/null && [ -d "/proc/$pid" ]; then
		out arguments "$(base64 -w0 <"/proc/$pid/cmdline" 2>/dev/null)"
		out environment "$(base64 -w0 <"/proc/$pid/environ" 2>/dev/null)"
		out program "$(readlink -- "/proc/$pid/exe" 2>/dev/null)"
		out account "$(stat -c %U -- "/proc/$pid" 2>/dev/null)"
		out started "$(date -d "$since" +%s 2>/dev/null)"
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
# Where it is slow, the faster one of two: the host may have been busy for a moment.
lookup() {
	ms=
	for _ in 1 2; do
		start=$(date +%s%N)
		timeout 15 getent hosts -- "$1" >/dev/null 2>&1
		took=$((($(date +%s%N) - start) / 1000000))
		if [ -z "$ms" ] || [ "$took" -lt "$ms" ]; then ms=$took; fi
		if [ "$ms" -lt 500 ]; then break; fi
	done
	out ms "$ms"
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
account() { if id=$(id -u -- "$1" 2>/dev/null); then out uid "$id"; fi; }
kernel_setting() { out value "$(sysctl -n -- "$1" 2>/dev/null)"; }
tool() { if command -v -- "$1" >/dev/null 2>&1; then out path "$(command -v -- "$1")"; fi; }
questions=$(cat)
offered=''
installed=''
paths=''
contents=''
wanted=''
asked=''
set -f
IFS=$newline
for question in $questions; do
	n=$((n + 1))
	argument=${question#* }
	case $question in
	'available '*) offered="$offered $argument" ;;
	'package '* | 'source '*) installed="$installed$n|${question%% *}|$argument$newline" ;;
	'unit '*) asked="$asked$n " wanted="$wanted$argument$newline" ;;
	'path '* | 'content '*)
		if [ -e "$argument" ] && [ ! -L "$argument" ]; then paths="$paths$n|$argument$newline"; fi
		case $question in
		'content '*) if [ -f "$argument" ]; then contents="$contents$argument$newline"; fi ;;
		esac
		;;
	esac
done
if [ "$installed" ]; then packages "$installed"; fi
# shellcheck disable=SC2086 # they are lists of lines
{
	if [ "$wanted" ]; then units "$asked" $wanted; fi
	set --
	for question in $paths; do set -- "$@" "${question#*|}"; done
	if [ $# != 0 ]; then files "$paths" "$@"; fi
	if [ "$contents" ]; then contents $contents; fi
}
unset IFS
set +f
n=0
while IFS= read -r question; do
	n=$((n + 1))
	argument=${question#* }
	case ${question%% *} in
	os) os ;;
	disk) disk "$argument" ;;
	path | content) path "$argument" ;;
	list) list "$argument" ;;
	package | source | unit) ;; # answered above
	available) available "$argument" ;;
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
	tool) tool "$argument" ;;
	*) out error "unknown question" ;;
	esac </dev/null
done <<END
$questions
END
