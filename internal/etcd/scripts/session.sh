# etcd.session CREDENTIALS AUTHORITY SUBJECT NEXT TRUSTED SCHEME: what a client needs to talk
# to the cluster: the credentials, the authority's certificate, those that the
# members trust, and a certificate of a day for the key whose signing request is on
# standard input. Where the authority is being replaced there may be a moment with
# the NEXT one alone. The client's key is never on a host and the authority's key
# never off it.
field() { printf '%s=%s\n' "$1" "$(base64 -w0)"; }
if [ -f "$1" ]; then field credentials <"$1"; fi
if [ -f "$6" ]; then field scheme <"$6"; fi
dir=$2
if [ ! -f "$dir/ca.crt" ]; then dir=$4; fi
if [ -f "$dir/ca.crt" ]; then
	field authority <"$dir/ca.crt"
	if [ -f "$5" ]; then field trusted <"$5"; fi
	config clientAuth ''
	cat >"$tmp/in.csr"
	openssl ca -batch -notext -config "$tmp/ca.cnf" -extensions leaf -subj "/O=$3" -keyfile "$dir/ca.key" -cert "$dir/ca.crt" \
		-in "$tmp/in.csr" -startdate "$begin" -enddate "$(end 1)" -out "$tmp/out.crt" 2>"$tmp/log" || {
		cat "$tmp/log" >&2
		exit 1
	}
	field certificate <"$tmp/out.crt"
fi
