// Package bind has hosts of a lab serve a zone that hosts with a key may change.
package bind

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// Key is a TSIG key of the servers'.
type Key struct{ Name, Algorithm, Secret string }

// Zone is a zone and who may change it.
type Zone struct {
	Name    string // without a dot at its end
	Keys    []Key
	Policy  []string // of update-policy, such as "grant pgha name db.pg.test. A AAAA TXT"
	Records []string // beside those that a zone has to have, as in its file
	// Primary and Secondary are hosts of the lab, which have BIND's package; there need be no
	// secondary one.
	Primary, Secondary string
}

// Serve sets the servers up, and starts them anew.
func (z Zone) Serve(ctx context.Context, lab *labhost.Lab) error {
	var keys strings.Builder
	for _, k := range z.Keys {
		fmt.Fprintf(&keys, "key %q { algorithm %s; secret %q; };\n", k.Name, k.Algorithm, k.Secret)
	}
	first := lab.Host(z.Primary).Addr
	more := ""
	if z.Secondary != "" {
		second := lab.Host(z.Secondary).Addr
		more = "notify explicit; also-notify { " + second + "; }; allow-transfer { " + second + "; };"
		config := keys.String() + fmt.Sprintf("zone %q { type secondary; file \"/var/lib/bind/zone\"; primaries { %s; }; allow-notify { %s; }; };\n", z.Name, first, first)
		if err := restart(ctx, lab, z.Secondary, config, ""); err != nil {
			return err
		}
	}
	config := keys.String() + fmt.Sprintf("zone %q { type primary; file \"/var/lib/bind/zone\"; %s update-policy { %s; }; };\n", z.Name, more, strings.Join(z.Policy, "; "))
	records := append([]string{"$TTL 5", "@ SOA ns root 1 60 10 86400 1", "@ NS ns", "ns A " + first}, z.Records...)
	return restart(ctx, lab, z.Primary, config, strings.Join(records, "\n")+"\n")
}

func restart(ctx context.Context, lab *labhost.Lab, host, config, zone string) error {
	script := "cat > /etc/bind/named.conf.local <<'E'\n" + config + "E\n"
	if zone != "" {
		script += "cat > /var/lib/bind/zone <<'E'\n" + zone + "E\nchown bind:bind /var/lib/bind/zone\n"
	}
	if out, err := lab.SSH(ctx, host, script+"systemctl restart named"); err != nil {
		return fmt.Errorf("named on %s: %w: %s", host, err, out)
	}
	return nil
}

// Resolver asks a server on a host, and keeps nothing.
func Resolver(lab *labhost.Lab, host string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(lab.Host(host).Addr, "53"))
	}}
}
