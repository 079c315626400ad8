# etcd.session CREDENTIALS AUTHORITY SUBJECT: what a client needs to talk to the
# cluster: the credentials, the authority's certificate, and a certificate of
# a day for the key whose signing request is on standard input. The client's
# key is never on a host and the authority's key never off it.
field() { printf '%s=%s\n' "$1" "$(base64 -w0)"; }
if [ -f "$1" ]; then field credentials <"$1"; fi
if [ -f "$2/ca.crt" ]; then
	field authority <"$2/ca.crt"
	config clientAuth ''
	cat >"$tmp/in.csr"
	openssl ca -batch -notext -config "$tmp/ca.cnf" -extensions leaf -subj "/O=$3" -keyfile "$2/ca.key" -cert "$2/ca.crt" \
		-in "$tmp/in.csr" -startdate "$begin" -enddate "$(end 1)" -out "$tmp/out.crt" 2>"$tmp/log" || {
		cat "$tmp/log" >&2
		exit 1
	}
	field certificate <"$tmp/out.crt"
fi
