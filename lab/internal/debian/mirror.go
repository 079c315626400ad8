package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/internal/sys"
)

// Mirror is where packages are downloaded from.
type Mirror struct{ Main, Security string }

// FindMirror returns the mirror of the given address or, without one, that of
// this machine's own apt configuration: whoever set up the machine chose it,
// and it may be the only one that can be reached.
func FindMirror(ctx context.Context, address string) (Mirror, error) {
	if address != "" {
		return Mirror{Main: address, Security: securityOf(address)}, nil
	}
	out, err := sys.Run(ctx, "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return Mirror{}, fmt.Errorf("look for a Debian mirror in this machine's apt configuration: %w", err)
	}
	return parseTargets(out)
}

func parseTargets(out string) (Mirror, error) {
	var m Mirror
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 3 {
			continue
		}
		origin, label, uri := f[0], f[1], strings.TrimSuffix(f[2], "/")
		// Before the first "apt-get update" only the address is known.
		switch {
		case label == "Debian-Security", origin == "" && strings.HasSuffix(uri, "/debian-security"):
			if m.Security == "" {
				m.Security = uri
			}
		case origin == "Debian" && label == "Debian", origin == "" && strings.HasSuffix(uri, "/debian"):
			if m.Main == "" {
				m.Main = uri
			}
		}
	}
	if m.Main == "" {
		return m, errors.New("this machine's apt configuration names no Debian mirror: give one, with --mirror http://HOST/debian")
	}
	if m.Security == "" {
		m.Security = securityOf(m.Main)
	}
	return m, nil
}

// securityOf returns where mirrors commonly keep security updates.
func securityOf(main string) string {
	return strings.TrimSuffix(strings.TrimSuffix(main, "/"), "/debian") + "/debian-security"
}

// keyring is the file of the keys that Debian signs its archive with. It holds
// those of every release, so one that is not too old serves sid as well.
func keyring() (string, error) {
	for _, f := range []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"} {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", errors.New("the package debian-archive-keyring is not installed")
}

// proxies returns the lines of this machine's apt configuration that say how
// to reach a mirror.
func proxies(ctx context.Context) []string {
	out, _ := sys.Run(ctx, "apt-config", "dump")
	var lines []string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Acquire::") && strings.Contains(line, "::Proxy") && !strings.Contains(line, `""`) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}
