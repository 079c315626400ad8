# Shared by the certificate scripts: a private scratch folder in memory.
set -eu
umask 077
tmp=$(mktemp -d /run/pgha-pki.XXXXXXXXXX)
trap 'rm -rf -- "$tmp"' EXIT
trap 'exit 130' HUP INT TERM
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
end() { date -u -d "$1 days" +%Y%m%d%H%M%SZ; }
