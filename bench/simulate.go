package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

// simulateCommand makes this program the hosts instead of who measures: they
// have a process of their own, so that their memory is not the provider's.
const simulateCommand = "simulate-hosts"

// ready is what that process prints once all hosts can be reached.
type ready struct {
	Port       int      `json:"port"`
	Addresses  []string `json:"addresses"`
	KeyFile    string   `json:"key_file"`
	KnownHosts string   `json:"known_hosts"`
}

// seen is what it prints for every line on its standard input: what came in
// since it started, all hosts together, and how many hosts were reached at all.
type seen struct {
	Connections int `json:"connections"`
	Sessions    int `json:"sessions"`
	Hosts       int `json:"hosts"`
}

// simulate serves hosts, each at a loopback address of its own, until its
// standard input ends.
func simulate(args []string) error {
	flags := flag.NewFlagSet(simulateCommand, flag.ExitOnError)
	count := flags.Int("hosts", 3, "how many")
	dir := flags.String("dir", ".", "folder for the key that logs in and for known_hosts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	key := sshtest.NewHostKey()
	r := ready{KeyFile: filepath.Join(*dir, "key"), KnownHosts: filepath.Join(*dir, "known_hosts")}
	if err := writeLoginKey(r.KeyFile); err != nil {
		return err
	}
	var known strings.Builder
	var servers []*sshtest.Server
	var network net.ListenConfig
	for i := range *count {
		// 127.88.0.1 and on: on Linux all of 127/8 is the loopback interface's.
		ip := fmt.Sprintf("127.88.%d.%d", i/250, i%250+1)
		l, err := network.Listen(context.Background(), "tcp", net.JoinHostPort(ip, strconv.Itoa(r.Port)))
		if err != nil {
			return err
		}
		// All have the port that was free on the first.
		r.Port = l.Addr().(*net.TCPAddr).Port
		h := newSimHost(fmt.Sprintf("host%d", i+1), ip)
		servers = append(servers, sshtest.Serve(l, sshtest.Config{Play: h.play, HostKeys: []ssh.Signer{key}}))
		r.Addresses = append(r.Addresses, ip)
		known.WriteString(knownhosts.Line([]string{l.Addr().String()}, key.PublicKey()) + "\n")
	}
	if err := os.WriteFile(r.KnownHosts, []byte(known.String()), 0o600); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(r); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	for {
		if _, err := in.ReadString('\n'); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var total seen
		for _, s := range servers {
			st := s.Stats()
			total.Connections += st.Accepted
			total.Sessions += st.Sessions
			if st.Sessions > 0 {
				total.Hosts++
			}
		}
		if err := out.Encode(total); err != nil {
			return err
		}
	}
}

// writeLoginKey makes a key. The simulated hosts let in any.
func writeLoginKey(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}
