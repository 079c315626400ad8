# pki.look ACCOUNT [KIND PATH]...: looks at certificates and keys that somebody
# else makes, and changes nothing. KIND is "certificate" or "key". For each it
# prints lines "N.FIELD=VALUE": "type" (file, missing, other), "readable" by the
# account (yes, no; empty where there is no such account), "text", in base64, the
# certificates of a file and nothing else that is in it, and "public", the SHA-256
# of the public key of a key; "unknown" without openssl. No key leaves the host.
set -eu
account=$1
shift
gid=
if id -u -- "$account" >/dev/null 2>&1; then gid=$(id -g -- "$account"); fi
n=0
while [ $# -gt 0 ]; do
	n=$((n + 1))
	kind=$1 path=$2
	shift 2
	if [ ! -e "$path" ]; then
		echo "$n.type=missing"
		continue
	fi
	if [ ! -f "$path" ]; then
		echo "$n.type=other"
		continue
	fi
	echo "$n.type=file"
	if [ "$gid" ]; then
		if setpriv --reuid="$account" --regid="$gid" --init-groups -- test -r "$path"; then
			echo "$n.readable=yes"
		else
			echo "$n.readable=no"
		fi
	fi
	case $kind in
	certificate)
		echo "$n.text=$(head -c 1048576 -- "$path" | tr -d '\r' | sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' | base64 -w0)"
		;;
	key)
		if ! command -v openssl >/dev/null; then
			echo "$n.public=unknown"
		elif public=$(openssl pkey -in "$path" -passin pass: -pubout -outform DER 2>/dev/null | base64 -w0) && [ "$public" ]; then
			sum=$(printf %s "$public" | base64 -d | sha256sum)
			echo "$n.public=${sum%% *}"
		fi
		;;
	esac
done
