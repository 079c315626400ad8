package fakehost

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
)

// pkiLook answers as pki's look.sh does.
func pkiLook(o *Op) error {
	account := o.Arg(1)
	_, known := o.Machine.Accounts[account]
	for i := 2; i < len(o.Cmd.Args); i += 2 {
		n, kind, p := i/2, o.Arg(i), o.Arg(i+1)
		f := o.Machine.Files.Get(p)
		switch {
		case f == nil:
			o.Printf("%d.type=missing\n", n)
			continue
		case f.Type != Regular:
			o.Printf("%d.type=other\n", n)
			continue
		}
		o.Printf("%d.type=file\n", n)
		if known {
			o.Printf("%d.readable=%s\n", n, map[bool]string{true: "yes", false: "no"}[f.readableBy(account)])
		}
		if kind == "certificate" {
			o.Printf("%d.text=%s\n", n, base64.StdEncoding.EncodeToString(certificatesIn(f.Content)))
			continue
		}
		switch key, err := parseKey(f.Content); {
		case o.Machine.Installed("openssl") == "":
			o.Printf("%d.public=unknown\n", n)
		case err == nil:
			der, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				return o.Fail(1, "%v", err)
			}
			o.Printf("%d.public=%s\n", n, fmt.Sprintf("%x", sha256.Sum256(der)))
		}
	}
	return nil
}

// certificatesIn are the certificates of a PEM text.
func certificatesIn(text []byte) (out []byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
	return out
}
