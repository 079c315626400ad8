# ca.export DIR: encrypts the authority's key to the certificate on standard
# input and prints the message.
cat >"$tmp/to.crt"
openssl cms -encrypt -binary -aes-256-cbc -outform PEM -in "$1/ca.key" "$tmp/to.crt"
