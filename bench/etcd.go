package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
)

// etcdUpgrade measures how long the turns of a rolling upgrade of three members
// take, from the first member's to the end of the last one's, beside the sum of
// the times in which each member, by itself, restarts and catches up; and for how
// long a writer meanwhile had to wait at most, beside the election timeout.
func etcdUpgrade(ctx context.Context, s *suite, runs int) ([]Result, error) {
	var rolls, sums, applies, stalls samples
	for i := range runs {
		err := s.onHosts(ctx, labhost.Warm, func(ctx context.Context, lab *labhost.Lab) error {
			have, err := lab.Versions("etcd-server")
			if err != nil {
				return err
			}
			older, newer := debver.Upstream(have[0]), debver.Upstream(have[len(have)-1])
			if older == newer {
				return fmt.Errorf("the lab has only one version of etcd, %s", older)
			}
			m, err := s.newModule(lab.Env()...)
			if err != nil {
				return err
			}
			if err := m.write("main.tf", etcdModule(lab, older)); err != nil {
				return err
			}
			if _, _, err := m.run(ctx, apply...); err != nil {
				return err
			}
			sum, err := restartAll(ctx, lab)
			if err != nil {
				return err
			}
			if err := m.write("main.tf", etcdModule(lab, newer)); err != nil {
				return err
			}
			w, err := writeEtcd(ctx, lab)
			if err != nil {
				return err
			}
			file := filepath.Join(s.dir, fmt.Sprintf("upgrade-%d.progress", i))
			cmd := m.command(ctx, apply...)
			cmd.Env = append(cmd.Env, "PGHA_PROGRESS_FILE="+file)
			took, out, err := timed(cmd)
			stall, failed := w.stop()
			if err = errors.Join(err, failed); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
			roll, err := span(file, "etcd.upgrade")
			if err != nil {
				return err
			}
			s.logf("etcd_upgrade_3 %d/%d: the turns took %.2f s, of an apply of %.2f s; restarts by themselves %.2f s; writes waited %.3f s at most", i+1, runs, roll.Seconds(), took.Seconds(), sum.Seconds(), stall.Seconds())
			rolls, sums, applies, stalls = append(rolls, roll.Seconds()), append(sums, sum.Seconds()), append(applies, took.Seconds()), append(stalls, stall.Seconds())
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return []Result{
		rolls.result("etcd_upgrade_3", "s").to("etcd_restarts_3", 1.3),
		sums.result("etcd_restarts_3", "s"),
		applies.result("etcd_upgrade_3_apply", "s"),
		stalls.most("etcd_write_stall", "s").atMost(electionTimeout.Seconds()),
	}, nil
}

// electionTimeout is that of members so near to each other: etcd's default.
const electionTimeout = time.Second

// etcdModule is an etcd cluster on a lab's hosts.
func etcdModule(lab *labhost.Lab, version string) string {
	var members strings.Builder
	for _, h := range lab.Hosts() {
		fmt.Fprintf(&members, "    %s = { host = { name = %q, address = %q, port = null, user = null, host_key = null, bastions = null } }\n", h.Name, h.Name, h.Addr)
	}
	return fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
resource "pgha_etcd_cluster" "dcs" {
  name    = "dcs"
  version = %q
  members = {
%s  }
}
`, version, members.String())
}

// etcdctl asks a host's own member, as the provider's user.
const etcdctl = `dir=/etc/pgha/etcd/dcs; export ETCDCTL_API=3 ETCDCTL_USER="pgha:$(sed 's/.*"pgha":"\([^"]*\)".*/\1/' $dir/credentials.json)"
export ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 ETCDCTL_CACERT=$dir/ca.crt ETCDCTL_CERT=$dir/server.crt ETCDCTL_KEY=$dir/server.key
`

// restartAll restarts one member after the other, as an operator does who waits for
// each to serve again, and sums up how long each took. A read that all members agree
// on (etcdctl get is one) is answered by a member that has caught up.
func restartAll(ctx context.Context, lab *labhost.Lab) (time.Duration, error) {
	var sum time.Duration
	for _, h := range lab.Hosts() {
		out, err := lab.SSH(ctx, h.Name, etcdctl+`begin=$(date +%s%N); systemctl restart etcd
until etcdctl get /nothing >/dev/null 2>&1; do sleep 0.02; done; echo $((($(date +%s%N) - begin) / 1000))`)
		if err != nil {
			return 0, err
		}
		micros, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("on %s: %q", h.Name, out)
		}
		sum += time.Duration(micros) * time.Microsecond
	}
	return sum, nil
}

// etcdWriter writes to etcd the whole time.
type etcdWriter struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	longest time.Duration
	written int
	last    error
}

// writeEtcd starts a writer that talks to all members. One that refuses is asked
// again, or another one is: what counts is how long nothing was written.
func writeEtcd(ctx context.Context, lab *labhost.Lab) (*etcdWriter, error) {
	first := lab.Hosts()[0].Name
	file := func(name string) []byte {
		out, err := lab.SSH(ctx, first, "cat /etc/pgha/etcd/dcs/"+name)
		if err != nil {
			return nil
		}
		return []byte(out + "\n")
	}
	cert, err := tls.X509KeyPair(file("server.crt"), file("server.key"))
	if err != nil {
		return nil, fmt.Errorf("etcd's certificate on %s: %w", first, err)
	}
	var credentials struct{ Pgha string }
	if err := json.Unmarshal(file("credentials.json"), &credentials); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(file("ca.crt")) {
		return nil, errors.New("etcd's authority cannot be read")
	}
	var endpoints []string
	for _, h := range lab.Hosts() {
		endpoints = append(endpoints, "https://"+h.Addr+":2379")
	}
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: endpoints, Username: "pgha", Password: credentials.Pgha, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &etcdWriter{cancel: cancel}
	w.done.Go(func() {
		defer client.Close()
		for last := time.Now(); ctx.Err() == nil; {
			try, end := context.WithTimeout(ctx, 5*time.Second)
			_, err := client.Put(try, "/pgha/bench", strconv.Itoa(w.written))
			end()
			switch {
			case err == nil:
				now := time.Now()
				if w.written > 0 { // before the first it logs in
					w.longest = max(w.longest, now.Sub(last))
				}
				last = now
				w.written++
			case ctx.Err() == nil:
				w.last = err
			}
			time.Sleep(2 * time.Millisecond) // a client that leaves the machine some time
		}
	})
	return w, nil
}

// stop ends it, and says how long nothing was written at most.
func (w *etcdWriter) stop() (time.Duration, error) {
	w.cancel()
	w.done.Wait()
	if w.written < 100 {
		return 0, fmt.Errorf("only %d keys were written: %w", w.written, w.last)
	}
	return w.longest, nil
}

// span is the time from the start of the first step of a kind to the end of the last
// one, by the provider's progress file.
func span(file, step string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var from, to time.Time
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var l struct {
			Time        time.Time
			Step, State string
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		if l.Step != step {
			continue
		}
		if from.IsZero() {
			from = l.Time
		}
		to = l.Time
	}
	if !to.After(from) {
		return 0, fmt.Errorf("%s has no step %s", file, step)
	}
	return to.Sub(from), nil
}
