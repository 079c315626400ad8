# leaf.request KEY OWNER GROUP MODE NOW: makes a private key unless it is there,
# and prints a signing request. The key stays on this host.
clock "$5"
if [ ! -s "$1" ]; then
	(umask 022 && mkdir -p -- "$(dirname -- "$1")")
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$tmp/key"
	cp -- "$tmp/key" "$1.new"
	chown -- "$2:$3" "$1.new"
	chmod -- "$4" "$1.new"
	sync -- "$1.new"
	mv -fT -- "$1.new" "$1"
fi
chown -- "$2:$3" "$1"
chmod -- "$4" "$1"
openssl req -new -config /dev/null -key "$1" -subj /CN=pgha
