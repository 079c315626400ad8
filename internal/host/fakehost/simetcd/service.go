package simetcd

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// service is etcd in its unit.
type service struct {
	sim     *Sim
	machine *fakehost.Machine
	store   *Store
	member  *member
}

// restartSec is RestartSec of our drop-in.
const restartSec = 2

// Start implements fakehost.Service.
func (s *service) Start(u *fakehost.Unit) {
	l, err := launchOf(u)
	env := l.settings
	if err == nil {
		err = s.check(env)
	}
	version, missing := s.program(l)
	if err == nil {
		err = missing
	}
	if err == nil {
		s.store, s.member, err = s.sim.join(u, env)
	}
	if err == nil {
		err = s.runs(l, version)
	}
	if err != nil {
		u.Logf("{\"level\":\"fatal\",\"msg\":%q}", err.Error())
		u.Exit("exit-code", restartSec)
		return
	}
	s.member.loadTrust()
	u.Logf("{\"level\":\"info\",\"msg\":\"starting an etcd server\"}")
	for _, p := range ports(env) {
		s.machine.Listen(p, "etcd", nil)
	}
	s.store.changed()
}

// Stop implements fakehost.Service.
func (s *service) Stop(u *fakehost.Unit) {
	s.sim.world.After(100*time.Millisecond, func() {
		if u.Active != "deactivating" {
			return
		}
		s.gone()
		u.Exit("success", 0)
	})
}

// Reload implements fakehost.Service.
func (s *service) Reload(u *fakehost.Unit) { u.Logf("etcd has nothing to reload") }

// Lost implements fakehost.Service.
func (s *service) Lost(*fakehost.Unit) { s.gone() }

// Process is what the running member was started with.
func (s *service) Process() (program, account string, args []string, env map[string]string) {
	if s.member == nil {
		return "", "", nil, nil
	}
	l := s.member.launch
	return l.program, "etcd", l.args, l.environ
}

// program is the version of what the unit starts.
func (s *service) program(l launch) (version string, err error) {
	version = string(s.machine.Files.Read(l.program))
	switch version {
	case "":
		return "", fmt.Errorf("unable to locate executable '%s': No such file or directory", l.program)
	case s.sim.Broken:
		return "", fmt.Errorf("etcd %s does not start in this test", version)
	}
	return version, nil
}

// runs has a member run a version, which may be too old for the cluster's data.
func (s *service) runs(l launch, version string) error {
	st := s.store
	if line(version) < st.line {
		s.member.unit = nil
		return fmt.Errorf("cluster cannot be downgraded (current version: %s is lower than determined cluster version: %s)", version, st.line)
	}
	s.member.launch, s.member.version = l, version
	oldest := line(version)
	for _, m := range st.members {
		if m.version == "" {
			return nil
		}
		oldest = min(oldest, line(m.version))
	}
	st.line = max(st.line, oldest)
	return nil
}

// line is "3.5" of "3.5.16".
func line(version string) string {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return major + "." + minor
}

func (s *service) gone() {
	if s.member == nil {
		return
	}
	for _, p := range ports(s.member.env) {
		s.machine.Unlisten(p)
	}
	s.member.unit = nil
	s.store.changed()
}

// variables adds those of one file.
func variables(env map[string]string, file, text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		value, err := v, error(nil)
		if strings.ContainsAny(v, `"'`) {
			value, err = strconv.Unquote(v)
		}
		if !ok || err != nil {
			return fmt.Errorf("%s: unexpected line %q", file, line)
		}
		env[k] = value
	}
	return nil
}

func ports(env map[string]string) []int {
	var list []int
	for _, key := range []string{"ETCD_LISTEN_CLIENT_URLS", "ETCD_LISTEN_PEER_URLS"} {
		for _, text := range strings.Split(env[key], ",") {
			if u, err := url.Parse(text); err == nil {
				if p, err := strconv.Atoi(u.Port()); err == nil && !slices.Contains(list, p) {
					list = append(list, p)
				}
			}
		}
	}
	return list
}

// check is what etcd finds out about its settings and files as it starts.
func (s *service) check(env map[string]string) error {
	dir := s.machine.Files.Get(env["ETCD_DATA_DIR"])
	if dir == nil || dir.Type != fakehost.Dir || dir.Owner != "etcd" {
		return fmt.Errorf("cannot access data directory: open %s: permission denied", env["ETCD_DATA_DIR"])
	}
	heartbeat, err1 := strconv.Atoi(cmp.Or(env["ETCD_HEARTBEAT_INTERVAL"], "100"))
	election, err2 := strconv.Atoi(cmp.Or(env["ETCD_ELECTION_TIMEOUT"], "1000"))
	if err1 != nil || err2 != nil || 5*heartbeat > election || election > 50000 {
		return fmt.Errorf("--election-timeout[%dms] should be at least as 5 times as --heartbeat-interval[%dms]", election, heartbeat)
	}
	if len(ports(env)) != 2 {
		return errors.New("there must be one port for clients and one for peers")
	}
	if env["ETCD_CERT_FILE"] == "" {
		return nil
	}
	for _, kind := range []string{"", "PEER_"} {
		if env["ETCD_"+kind+"CERT_FILE"] == "" {
			continue
		}
		if err := s.checkTLS(env, kind); err != nil {
			return err
		}
	}
	return nil
}

// checkTLS makes sure that a key and certificate belong together, can be read,
// and come from the authority that is trusted.
func (s *service) checkTLS(env map[string]string, kind string) error {
	read := func(key string) ([]byte, error) {
		p := env["ETCD_"+kind+key]
		b := s.machine.Files.ReadAs("etcd", p)
		if b == nil {
			return nil, fmt.Errorf("open %s: permission denied", p)
		}
		return b, nil
	}
	cert, err := read("CERT_FILE")
	if err != nil {
		return err
	}
	key, err := read("KEY_FILE")
	if err != nil {
		return err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return err
	}
	if env["ETCD_"+kind+"TRUSTED_CA_FILE"] == "" {
		return nil
	}
	authority, err := read("TRUSTED_CA_FILE")
	if err != nil {
		return err
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return err
	}
	if cn := env["ETCD_PEER_CERT_ALLOWED_CN"]; kind == "PEER_" && cn != "" && leaf.Subject.CommonName != cn {
		return fmt.Errorf("CommonName of the peer's certificate is %q, not %q", leaf.Subject.CommonName, cn)
	}
	return nil
}
