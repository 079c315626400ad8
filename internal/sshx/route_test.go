package sshx

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host"
)

func TestParseJump(t *testing.T) {
	tests := map[string]any{
		"bastion":               Jump{Host: "bastion"},
		"bastion:2222":          Jump{Host: "bastion", Port: 2222},
		"deploy@bastion":        Jump{User: "deploy", Host: "bastion"},
		" deploy@bastion:2222 ": Jump{User: "deploy", Host: "bastion", Port: 2222},
		"me@corp@bastion":       Jump{User: "me@corp", Host: "bastion"},
		"2001:db8::1":           Jump{Host: "2001:db8::1"},
		"[2001:db8::1]":         Jump{Host: "2001:db8::1"},
		"u@[2001:db8::1]:2222":  Jump{User: "u", Host: "2001:db8::1", Port: 2222},
		"[fe80::1%eth0]:22":     Jump{Host: "fe80::1%eth0", Port: 22},
		"":                      `bastion "": the host is empty`,
		"@bastion":              `bastion "@bastion": the user is empty`,
		"bastion:ssh":           `bastion "bastion:ssh": "ssh" is not a port`,
		"bastion:0":             `bastion "bastion:0": "0" is not a port`,
		"bastion:99999":         `bastion "bastion:99999": "99999" is not a port`,
		":22":                   `bastion ":22": the host is empty`,
	}
	for text, want := range tests {
		var got any
		j, err := ParseJump(text)
		got = j
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestRoute(t *testing.T) {
	cfg := Config{User: "me", Port: 2200, Bastions: []Jump{{Host: "Outer"}, {Host: "inner", Port: 2222, User: "jump", HostKey: "SHA256:x"}}}
	tests := []struct {
		name   string
		target host.Target
		want   []string
	}{
		{"defaults", host.Target{Address: "pg1"}, []string{"me@outer:22", "jump@inner:2222 SHA256:x", "me@pg1:2200"}},
		{"direct", host.Target{Address: "pg1", Bastions: "none", User: "root", Port: 22, HostKey: "SHA256:y"}, []string{"root@pg1:22 SHA256:y"}},
		{"its own chain", host.Target{Address: "::1", Bastions: "a, b@c:1"}, []string{"me@a:22", "b@c:1", "me@[::1]:2200"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hops, err := cfg.route(tt.target)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range hops {
				text := fmt.Sprintf("%s@%s", h.user, h.addr())
				if h.hostKey != "" {
					text += " " + h.hostKey
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
