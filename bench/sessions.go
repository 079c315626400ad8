package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// sessionCount is what the SSH server of a host has logged about one refresh.
type sessionCount struct {
	host                           string
	connections, sessions, tunnels int
}

// countSessions does something and counts what it opened on each host. The
// servers' own logs are what counts, not what the provider says about itself.
func countSessions(ctx context.Context, lab *labhost.Lab, do func() error) ([]sessionCount, error) {
	cursors := map[string]string{}
	for _, h := range lab.Hosts() {
		// At this level the server logs sessions and tunnels, from the next
		// connection on. The connection that sets it is not among them.
		out, err := lab.SSH(ctx, h.Name, `set -e
			mkdir -p /etc/ssh/sshd_config.d
			echo LogLevel DEBUG1 >/etc/ssh/sshd_config.d/bench.conf
			systemctl restart ssh
			journalctl --sync
			journalctl -q -n 0 --show-cursor`)
		if err != nil {
			return nil, err
		}
		_, cursor, ok := strings.Cut(out, "-- cursor: ")
		if !ok {
			return nil, fmt.Errorf("the journal of %s has no cursor: %q", h.Name, out)
		}
		cursors[h.Name] = strings.TrimSpace(cursor)
	}
	if err := do(); err != nil {
		return nil, err
	}
	var counts []sessionCount
	var errs []error
	for _, h := range lab.Hosts() {
		// The last line says which connection this one is, so that it can be
		// left out.
		out, err := lab.SSH(ctx, h.Name, "journalctl --sync; journalctl -q -o cat --after-cursor='"+cursors[h.Name]+"'; echo; echo $SSH_CONNECTION")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := countLog(out)
		c.host = h.Name
		counts = append(counts, c)
	}
	return counts, errors.Join(errs...)
}

// countLog counts in a server's log. The last line is the SSH_CONNECTION of who
// read it.
func countLog(log string) sessionCount {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	reader := " port -"
	if f := strings.Fields(lines[len(lines)-1]); len(f) == 4 {
		reader = " port " + f[1]
	}
	var c sessionCount
	for _, l := range lines {
		switch own := strings.Contains(l+" ", reader+" "); {
		case own:
		case strings.HasPrefix(l, "Accepted publickey for "):
			c.connections++
		case strings.HasPrefix(l, "Starting session: "):
			c.sessions++
		case strings.Contains(l, "server_request_direct_tcpip: "):
			c.tunnels++
		}
	}
	return c
}
