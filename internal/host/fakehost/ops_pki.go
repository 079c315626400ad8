package fakehost

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"path"
	"strconv"
	"strings"
	"time"
)

// The certificate scripts, with Go's cryptography in place of openssl's: the
// certificates are real ones, so that planners judge and clients verify them.

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an EC key")
	}
	return key, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func validity(days int) (time.Time, time.Time) {
	now := time.Now()
	return now.Add(-time.Hour), now.AddDate(0, 0, days)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

func caCreate(o *Op) error {
	if !o.Need(4) {
		return exitError(2)
	}
	dir, files := o.Arg(1), o.Machine.Files
	crt, key := files.Get(dir+"/ca.crt"), files.Get(dir+"/ca.key")
	if (crt == nil) != (key == nil) {
		return o.Fail(1, "%s holds only half of a certificate authority; move it away by hand", dir)
	}
	if crt == nil {
		if err := o.clock(); err != nil {
			return err
		}
		if o.Machine.Installed("openssl") == "" {
			return o.Fail(127, "openssl: not found")
		}
		days, _ := strconv.Atoi(o.Arg(3))
		private, text, err := newKey()
		if err != nil {
			return o.Fail(1, "%v", err)
		}
		from, to := validity(days)
		template := &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: o.Arg(2)}, NotBefore: from, NotAfter: to,
			IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			return o.Fail(1, "%v", err)
		}
		o.putAuthority(dir, text, certificatePEM(der))
	}
	o.Out.Write(files.Read(dir + "/ca.crt"))
	return nil
}

// clock refuses to make certificates with a clock that is wrong.
func (o *Op) clock() error {
	if off := o.Machine.Skew; off.Abs() > 30*time.Minute {
		return o.Fail(9, "the host's clock is %d minutes off that of the machine that runs Terraform", int(off.Minutes()))
	}
	return nil
}

func (o *Op) putAuthority(dir string, key, certificate []byte) {
	o.Machine.World.Learn(string(key))
	o.Machine.Files.Remove(dir)
	o.Machine.Files.Put(dir, File{Type: Dir, Mode: "700"})
	o.Machine.Files.Put(dir+"/ca.key", File{Mode: "600", Content: key})
	o.Machine.Files.Put(dir+"/ca.crt", File{Content: certificate})
}

func caPromote(o *Op) error {
	if !o.Need(3) {
		return exitError(2)
	}
	current, next, old := o.Arg(1), o.Arg(2), o.Arg(3)
	files := o.Machine.Files
	move := func(from, to string) {
		for _, name := range []string{"/ca.key", "/ca.crt"} {
			files.Put(to+name, *files.Get(from + name))
		}
		files.Get(to).Mode = "700"
		files.Remove(from)
	}
	if files.Get(next) == nil {
		return nil
	}
	if files.Get(current) != nil {
		if files.Get(old) != nil {
			return o.Fail(1, "%s is there already: an authority that was replaced before has not been withdrawn", old)
		}
		move(current, old)
	}
	move(next, current)
	return nil
}

func leafRequest(o *Op) error {
	if !o.Need(5) {
		return exitError(2)
	}
	if err := o.clock(); err != nil {
		return err
	}
	p, files := o.Arg(1), o.Machine.Files
	if err := o.owned(o.Arg(2), o.Arg(3)); err != nil {
		return err
	}
	if files.Get(p) == nil {
		_, text, err := newKey()
		if err != nil {
			return o.Fail(1, "%v", err)
		}
		o.Machine.World.Learn(string(text))
		files.Put(p, File{Content: text})
	}
	n := files.Get(p)
	n.Owner, n.Group, n.Mode = o.Arg(2), o.Arg(3), strings.TrimLeft(o.Arg(4), "0")
	private, err := parseKey(n.Content)
	if err != nil {
		return o.Fail(1, "%s: %v", p, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "pgha"}}, private)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	o.Out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return nil
}

func caSign(o *Op) error {
	if !o.Need(6) {
		return exitError(2)
	}
	if err := o.clock(); err != nil {
		return err
	}
	days, _ := strconv.Atoi(o.Arg(3))
	template := &x509.Certificate{SerialNumber: serial(), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, BasicConstraintsValid: true}
	template.NotBefore, template.NotAfter = validity(days)
	switch field, name, _ := strings.Cut(strings.TrimPrefix(o.Arg(2), "/"), "="); field {
	case "CN":
		template.Subject.CommonName = name
	case "O":
		template.Subject.Organization = []string{name}
	default:
		return o.Fail(1, "unexpected subject %s", o.Arg(2))
	}
	for _, u := range strings.Split(o.Arg(4), ",") {
		usage, ok := map[string]x509.ExtKeyUsage{"serverAuth": x509.ExtKeyUsageServerAuth, "clientAuth": x509.ExtKeyUsageClientAuth}[u]
		if !ok {
			return o.Fail(1, "unexpected usage %q", u)
		}
		template.ExtKeyUsage = append(template.ExtKeyUsage, usage)
	}
	for _, n := range strings.Split(o.Arg(5), ",") {
		switch kind, name, _ := strings.Cut(n, ":"); kind {
		case "IP":
			template.IPAddresses = append(template.IPAddresses, net.ParseIP(name))
		case "DNS":
			template.DNSNames = append(template.DNSNames, name)
		case "":
		default:
			return o.Fail(1, "unexpected name %q", n)
		}
	}
	return o.sign(o.Arg(1), template, o.Cmd.Stdin)
}

// sign prints a certificate for the key of a request, from the authority in a
// folder.
func (o *Op) sign(dir string, template *x509.Certificate, request []byte) error {
	block, _ := pem.Decode(request)
	if block == nil {
		return o.Fail(1, "unable to load the request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return o.Fail(1, "the request's signature is wrong")
	}
	der, err := o.Machine.signed(dir, template, csr.PublicKey)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	o.Out.Write(certificatePEM(der))
	return nil
}

func (m *Machine) signed(dir string, template *x509.Certificate, public any) ([]byte, error) {
	authority, err := parseCertificate(m.Files.Read(dir + "/ca.crt"))
	if err != nil {
		return nil, err
	}
	key, err := parseKey(m.Files.Read(dir + "/ca.key"))
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, authority, public, key)
}

func caReceive(o *Op) error {
	room := o.Arg(1)
	key, text, err := newKey()
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	from, to := validity(2)
	template := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: "pgha-transfer"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	o.Machine.World.Learn(string(text))
	o.Machine.Files.Remove(room)
	o.Machine.Files.Put(room, File{Type: Dir, Mode: "700"})
	o.Machine.Files.Put(room+"/key", File{Mode: "600", Content: text})
	o.Machine.Files.Put(room+"/crt", File{Mode: "600", Content: certificatePEM(der)})
	o.Out.Write(certificatePEM(der))
	return nil
}

// seal is a cipher that only who has one of the two keys, and the other's
// public part, can make.
func seal(private *ecdsa.PrivateKey, public any) (cipher.AEAD, error) {
	k, err := private.ECDH()
	if err != nil {
		return nil, err
	}
	p, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("not an EC key")
	}
	var to *ecdh.PublicKey
	if to, err = p.ECDH(); err != nil {
		return nil, err
	}
	shared, err := k.ECDH(to)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(shared)
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func caExport(o *Op) error {
	to, err := parseCertificate(o.Cmd.Stdin)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	secret := o.Machine.Files.Read(o.Arg(1) + "/ca.key")
	if secret == nil {
		return o.Fail(1, "%s/ca.key: No such file or directory", o.Arg(1))
	}
	once, _, err := newKey()
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	aead, err := seal(once, to.PublicKey)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	public, err := x509.MarshalPKIXPublicKey(once.Public())
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	o.Out.Write(pem.EncodeToMemory(&pem.Block{
		Type: "CMS", Headers: map[string]string{"From": base64.StdEncoding.EncodeToString(public)},
		Bytes: aead.Seal(nil, make([]byte, aead.NonceSize()), secret, nil),
	}))
	return nil
}

func caImport(o *Op) error {
	dir, room := o.Arg(1), o.Arg(2)
	block, rest := pem.Decode(o.Cmd.Stdin)
	message, _ := pem.Decode(rest)
	if block == nil || message == nil || message.Type != "CMS" {
		return o.Fail(1, "the message is incomplete")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	private, err := parseKey(o.Machine.Files.Read(room + "/key"))
	if err != nil {
		return o.Fail(1, "%s/key: %v", room, err)
	}
	der, err := base64.StdEncoding.DecodeString(message.Headers["From"])
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	from, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	aead, err := seal(private, from)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	key, err := aead.Open(nil, make([]byte, aead.NonceSize()), message.Bytes, nil)
	if err != nil {
		return o.Fail(1, "%v", err)
	}
	if k, err := parseKey(key); err != nil || !k.PublicKey.Equal(certificate.PublicKey) {
		return o.Fail(1, "the key that arrived does not belong to the certificate")
	}
	o.putAuthority(dir, key, certificatePEM(block.Bytes))
	o.Machine.Files.Remove(room)
	return nil
}

// etcdSession prints what a client needs to talk to etcd.
func etcdSession(o *Op) error {
	if !o.Need(6) {
		return exitError(2)
	}
	field := func(name string, value []byte) {
		o.Printf("%s=%s\n", name, base64.StdEncoding.EncodeToString(value))
	}
	files := o.Machine.Files
	if c := files.Read(o.Arg(1)); c != nil {
		field("credentials", c)
	}
	if scheme := files.Read(o.Arg(6)); scheme != nil {
		field("scheme", scheme)
	}
	dir := o.Arg(2)
	if files.Get(dir+"/ca.crt") == nil {
		dir = o.Arg(4)
	}
	authority := files.Read(path.Join(dir, "ca.crt"))
	if authority == nil {
		return nil
	}
	field("authority", authority)
	if trusted := files.Read(o.Arg(5)); trusted != nil {
		field("trusted", trusted)
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{o.Arg(3)}},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	template.NotBefore, template.NotAfter = validity(1)
	signer := &Op{Machine: o.Machine, Cmd: o.Cmd}
	if err := signer.sign(dir, template, o.Cmd.Stdin); err != nil {
		return o.Fail(1, "%s", signer.Err.String())
	}
	field("certificate", signer.Out.Bytes())
	return nil
}

// Reissue gives a certificate on the machine another validity, signed by the
// authority in a folder: what is there instead of waiting for a year.
func (m *Machine) Reissue(dir, certificate string, begin, end time.Time) {
	old, err := parseCertificate(m.Files.Read(certificate))
	if err != nil {
		panic(err)
	}
	der, err := m.signed(dir, &x509.Certificate{
		SerialNumber: serial(), Subject: old.Subject, NotBefore: begin, NotAfter: end, KeyUsage: old.KeyUsage, ExtKeyUsage: old.ExtKeyUsage,
		BasicConstraintsValid: true, IPAddresses: old.IPAddresses, DNSNames: old.DNSNames, IsCA: old.IsCA, MaxPathLenZero: old.MaxPathLenZero,
	}, old.PublicKey)
	if err != nil {
		panic(err)
	}
	n := *m.Files.Get(certificate)
	n.Content = certificatePEM(der)
	m.Files.Put(certificate, n)
}
