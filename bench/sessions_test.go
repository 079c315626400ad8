package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCountLog counts in what the SSH server of Debian 13 logged about a refresh:
// one connection with two scripts and a tunnel, and the connection that read it.
func TestCountLog(t *testing.T) {
	log, err := os.ReadFile("testdata/sshd.log")
	if err != nil {
		t.Fatal(err)
	}
	want := sessionCount{connections: 1, sessions: 2, tunnels: 1}
	if diff := cmp.Diff(want, countLog(string(log)), cmp.AllowUnexported(sessionCount{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
