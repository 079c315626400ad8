# flock.hold PATH HOLDER WAIT BEAT: takes the lock, says "locked", and holds
# it for as long as a line arrives on standard input at least every BEAT
# seconds. A client that vanished frees it. If somebody else has it, says
# "busy" and the holder's own words.
set -u
mkdir -p -- "$(dirname -- "$1")"
exec 9>>"$1"
if ! flock -w "$3" 9; then
	printf 'busy %s\n' "$(cat -- "$1.holder" 2>/dev/null)"
	exit 75
fi
printf '%s\n' "$2" >"$1.holder"
echo locked
while timeout "$4" head -n 1 | grep -q .; do :; done
rm -f -- "$1.holder"
