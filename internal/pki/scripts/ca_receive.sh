# ca.receive ROOM: the first half of bringing an authority's key from another
# host: makes a one-time key in memory and prints a certificate that the other
# host encrypts to. So the authority's key passes nobody in the clear.
rm -rf -- "$1"
mkdir -m 0700 -- "$1"
openssl req -x509 -newkey rsa:3072 -nodes -config /dev/null -subj /CN=pgha-transfer -days 2 \
	-keyout "$1/key" -out "$1/crt" 2>"$tmp/log" || {
	cat "$tmp/log" >&2
	exit 1
}
cat -- "$1/crt"
