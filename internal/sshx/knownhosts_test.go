package sshx

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/internal/sshx/sshtest"
)

func keyText(key ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

func TestMatches(t *testing.T) {
	key := keyText(sshtest.NewHostKey().PublicKey())
	tests := []struct {
		hosts string
		addr  string
		want  bool
	}{
		{"pg1", "pg1:22", true},
		{"pg1", "PG1:22", true},
		{"PG1", "pg1:22", true},
		{"pg1", "pg1:2222", false},
		{"[pg1]:2222", "pg1:2222", true},
		{"[pg1]:2222", "pg1:22", false},
		{"pg1,10.0.0.1", "10.0.0.1:22", true},
		{"*.example.com", "pg1.example.com:22", true},
		{"*.example.com", "example.com:22", false},
		{"*.example.com", "pg1.example.com:2222", false},
		{"[*.example.com]:2222", "pg1.example.com:2222", true},
		{"*.example.com,!pg2.example.com", "pg2.example.com:22", false},
		{"!pg2.example.com,*.example.com", "pg2.example.com:22", false},
		{"!pg2", "pg1:22", false},
		{"10.0.0.?", "10.0.0.7:22", true},
		{"10.0.0.?", "10.0.0.77:22", false},
		{"*", "anything:2222", true},
		{"a*b*c", "axxbyyc:22", true},
		{"a*b*c", "axxbyy:22", false},
		{"2001:db8::1", "[2001:db8::1]:22", true},
		{"[2001:db8::1]:2222", "[2001:db8::1]:2222", true},
		{"fe80::1%eth0", "[fe80::1%eth0]:22", true},
		{strings.Repeat("*a", 30) + "b", strings.Repeat("a", 60) + ":22", false},
	}
	for _, tt := range tests {
		t.Run(tt.hosts+" "+tt.addr, func(t *testing.T) {
			lines, bad := parseKnownHosts("f", []byte(tt.hosts+" "+key))
			if len(bad) > 0 {
				t.Fatal(bad)
			}
			if got := lines[0].matches(knownName(tt.addr)); got != tt.want {
				t.Errorf("matches: %t", got)
			}
		})
	}
}

func TestParseKnownHosts(t *testing.T) {
	key := keyText(sshtest.NewHostKey().PublicKey())
	text := strings.Join([]string{
		"# a comment",
		"",
		"pg1 " + key,
		"@cert-authority *.example.com " + key,
		"  @revoked * " + key + " comment\t",
		"pg2 ssh-unknown AAAA",
		"pg3",
		"@what pg4 " + key,
		"pg5 " + key + "\r",
		"|1|broken " + key,
		"|1|aGVsbG8=|aGVsbG8= " + key,
	}, "\n")
	lines, bad := parseKnownHosts("/f", []byte(text))
	var got []string
	for _, l := range lines {
		got = append(got, fmt.Sprintf("%s %v ca=%t revoked=%t", l.source, l.hosts, l.ca, l.revoked))
	}
	want := []string{
		"/f:3 [pg1] ca=false revoked=false",
		"/f:4 [*.example.com] ca=true revoked=false",
		"/f:5 [*] ca=false revoked=true",
		"/f:9 [pg5] ca=false revoked=false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(bad) != 5 {
		t.Errorf("%d lines refused: %v", len(bad), bad)
	}
}

// TestAgreesWithKeygen compares with what OpenSSH finds in the same file, with
// plain and with hashed names.
func TestAgreesWithKeygen(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("no ssh-keygen")
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	names := []string{"pg1", "pg2.example.com", "10.0.0.1", "2001:db8::1", "[pg1]:2222", "[2001:db8::1]:2222", "*.example.org", "a?c,!abc", "x,y,z"}
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintln(&text, name, keyText(sshtest.NewHostKey().PublicKey()))
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := []string{
		"pg1:22", "pg1:2222", "pg1:2223", "pg2.example.com:22", "pg2.example.com:2222", "10.0.0.1:22", "10.0.0.2:22",
		"[2001:db8::1]:22", "[2001:db8::1]:2222", "[2001:db8::2]:22", "h.example.org:22", "h.example.org:2222",
		"abc:22", "axc:22", "ac:22", "x:22", "y:22", "unknown:22",
	}
	for _, hashed := range []bool{false, true} {
		if hashed {
			if out, err := exec.Command(keygen, "-H", "-f", file).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if hashed && !strings.Contains(string(data), "|1|") {
			t.Fatal("nothing was hashed")
		}
		lines, bad := parseKnownHosts(file, data)
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		for _, addr := range addrs {
			out, _ := exec.Command(keygen, "-F", knownName(addr), "-f", file).Output()
			var want, got []string
			for line := range strings.Lines(string(out)) {
				if fields := strings.Fields(line); len(fields) >= 3 && fields[0] != "#" {
					want = append(want, fields[2])
				}
			}
			for _, l := range lines {
				if l.matches(knownName(addr)) {
					got = append(got, strings.Fields(keyText(l.key))[1])
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, hashed %t (-ssh-keygen +ours):\n%s", addr, hashed, diff)
			}
		}
	}
}

func FuzzParseKnownHosts(f *testing.F) {
	key := keyText(sshtest.NewHostKey().PublicKey())
	f.Add("pg1 " + key + "\n@revoked * " + key)
	f.Add("|1|aaaa|bbbb " + key)
	f.Add("!,, " + key)
	f.Fuzz(func(t *testing.T, text string) {
		lines, _ := parseKnownHosts("f", []byte(text))
		for _, l := range lines {
			l.matches("pg1")
		}
	})
}
