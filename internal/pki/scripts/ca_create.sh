# ca.create DIR NAME DAYS NOW: makes a certificate authority unless it is there,
# and prints its certificate. The folder appears whole or not at all.
if [ ! -s "$1/ca.crt" ] || [ ! -s "$1/ca.key" ]; then
	if [ -e "$1/ca.crt" ] || [ -e "$1/ca.key" ]; then
		echo "$1 holds only half of a certificate authority; move it away by hand" >&2
		exit 1
	fi
	clock "$4"
	config serverAuth ''
	new="$1.new"
	rm -rf -- "$new"
	(umask 022 && mkdir -p -- "$(dirname -- "$1")")
	mkdir -m 0700 -- "$new"
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$new/ca.key"
	openssl req -new -config /dev/null -key "$new/ca.key" -subj "/CN=$2" -out "$tmp/ca.csr"
	openssl ca -batch -notext -selfsign -config "$tmp/ca.cnf" -extensions authority -keyfile "$new/ca.key" \
		-in "$tmp/ca.csr" -startdate "$begin" -enddate "$(end "$3")" -out "$new/ca.crt" 2>"$tmp/log" || {
		cat "$tmp/log" >&2
		exit 1
	}
	chmod 0644 "$new/ca.crt"
	sync -- "$new/ca.key" "$new/ca.crt"
	rmdir -- "$1" 2>/dev/null || :
	mv -T -- "$new" "$1"
	sync -- "$(dirname -- "$1")"
fi
cat -- "$1/ca.crt"
