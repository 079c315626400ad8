# ca.sign DIR SUBJECT DAYS USAGES NAMES NOW: signs the request on standard input
# and prints the certificate. Subject, usages and names are the caller's; the
# request contributes its key only.
clock "$6"
config "$4" "${5:+subjectAltName = $5}"
cat >"$tmp/in.csr"
openssl req -noout -verify -in "$tmp/in.csr" >"$tmp/log" 2>&1 || {
	cat "$tmp/log" >&2
	exit 1
}
openssl ca -batch -notext -config "$tmp/ca.cnf" -extensions leaf -subj "$2" -keyfile "$1/ca.key" -cert "$1/ca.crt" \
	-in "$tmp/in.csr" -startdate "$begin" -enddate "$(end "$3")" -out "$tmp/out.crt" 2>"$tmp/log" || {
	cat "$tmp/log" >&2
	exit 1
}
cat "$tmp/out.crt"
