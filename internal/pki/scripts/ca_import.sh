# ca.import DIR ROOM: the second half: decrypts the message that follows the
# authority's certificate on standard input, checks that the two belong
# together, and puts both in place.
cat >"$tmp/in"
sed -n '/BEGIN CERTIFICATE/,/END CERTIFICATE/p' "$tmp/in" >"$tmp/ca.crt"
sed -n '/BEGIN CMS/,/END CMS/p' "$tmp/in" >"$tmp/message"
openssl cms -decrypt -binary -inform PEM -in "$tmp/message" -inkey "$2/key" -recip "$2/crt" -out "$tmp/ca.key"
if [ "$(openssl pkey -in "$tmp/ca.key" -pubout)" != "$(openssl x509 -in "$tmp/ca.crt" -noout -pubkey)" ]; then
	echo "the key that arrived does not belong to the certificate" >&2
	exit 1
fi
new="$1.new"
rm -rf -- "$new"
(umask 022 && mkdir -p -- "$(dirname -- "$1")")
mkdir -m 0700 -- "$new"
cp -- "$tmp/ca.key" "$tmp/ca.crt" "$new/"
chmod 0644 "$new/ca.crt"
sync -- "$new/ca.key" "$new/ca.crt"
if [ -d "$1" ]; then rm -rf -- "$1"; fi
mv -T -- "$new" "$1"
sync -- "$(dirname -- "$1")"
rm -rf -- "$2"
