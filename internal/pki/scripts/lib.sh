# Shared by the certificate scripts: a private scratch folder in memory.
set -eu
umask 077
# PIPE, too: of a message that nobody reads any more this shell would die
# without cleaning up.
tmp=
trap '[ -z "$tmp" ] || rm -rf -- "$tmp"' EXIT
trap 'exit 130' HUP INT PIPE TERM
tmp=$(mktemp -d /run/pgha-pki.XXXXXXXXXX)
# Certificates begin an hour ago, so that hosts whose clocks differ a little
# accept each other's at once.
begin=$(date -u -d '1 hour ago' +%y%m%d%H%M%SZ)
config() {
	cat >"$tmp/ca.cnf" <<CONFIG
[ca]
default_ca = this
[this]
database = $tmp/index
new_certs_dir = $tmp
default_md = sha256
policy = names
unique_subject = no
rand_serial = yes
[names]
commonName = optional
organizationName = optional
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyAgreement
extendedKeyUsage = $1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
$2
CONFIG
	: >"$tmp/index"
}
# clock NOW: refuses to make a certificate where the clock is far from that of the
# machine that asks for it: elsewhere it would not be valid yet, or not for as long.
clock() {
	off=$(($(date +%s) - $1))
	[ "${off#-}" -gt 1800 ] || return 0
	echo "the host's clock is $((${off#-} / 60)) minutes $([ "$off" -gt 0 ] && echo ahead of || echo behind) that of the machine that runs Terraform" >&2
	exit 9
}
end() { date -u -d "$1 days" +%Y%m%d%H%M%SZ; }
