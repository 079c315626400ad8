# etcd.reach DIR CERTIFICATE ADDRESS:PORT CHECK NAME: asks a member for its version with
# https, with a certificate of this host that the member has to accept, and whose own
# certificate has to be good for its name. It ends with 1 if it does not answer so.
set -eu
answer=$(printf 'GET /version HTTP/1.0\r\nHost: etcd\r\n\r\n' | timeout 10 openssl s_client -quiet -verify_return_error "$4" "$5" \
	-CAfile "$1/ca.crt" -cert "$1/$2.crt" -key "$1/$2.key" -connect "$3" 2>&1) || true
case $answer in
*etcdserver*) exit 0 ;;
esac
printf '%s does not answer by https: %s\n' "$3" "$(printf '%s' "$answer" | tail -n 3)" >&2
exit 1
