# Runs as the account that logged in. It becomes the wanted user and runs the
# wrapper under a time limit. Parameters: how to become root, the wanted user,
# the limit in seconds, the wrapper, and what the wrapper gets.
nonce=$0 become=$1 user=$2 seconds=$3 wrapper=$4
shift 4
PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C.UTF-8
export PATH LC_ALL
tell() { printf "%s %s\n" "$nonce" "$*" >&2; }
need() { command -v "$1" >/dev/null 2>&1 || { tell absent "$1"; exit 127; }; }
tell up
set -- /bin/sh -c "$wrapper" "$nonce" "$user" "$@"
if [ "$seconds" != 0 ]; then
	need timeout
	set -- timeout -k 5 "$seconds" "$@"
fi
[ -n "$user" ] || exec "$@"
me=$(id -un)
[ "$me" != "$user" ] || exec "$@"
if [ "$user" != root ]; then
	need runuser
	set -- runuser -u "$user" -- "$@"
fi
[ "$(id -u)" != 0 ] || exec "$@"
case $become in
auto*)
	if command -v sudo >/dev/null 2>&1; then become=sudo${become#auto}
	elif command -v doas >/dev/null 2>&1; then become=doas
	else tell absent sudo; exit 127
	fi
esac
case $become in
sudo) need sudo; exec sudo -n -- "$@" ;;
sudo-password) need sudo; exec sudo -S -p "$nonce password:" -- "$@" ;;
doas) need doas; exec doas -n "$@" ;;
*) tell unprivileged "$me"; exit 126 ;;
esac
