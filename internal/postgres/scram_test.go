package postgres

import "testing"

// A verifier that a server made: create role x password 'correct horse'; select
// rolpassword from pg_authid.
func TestScramMatches(t *testing.T) {
	made, ok := ScramVerifier("correct horse")
	if !ok {
		t.Fatal("no verifier")
	}
	for name, c := range map[string]struct {
		password, verifier string
		want               bool
	}{
		"RFC 7677":          {"pencil", "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", true},
		"made here":         {"correct horse", made, true},
		"another password":  {"correct horses", made, false},
		"md5":               {"x", "md5d41d8cd98f00b204e9800998ecf8427e", false},
		"nothing":           {"", "", false},
		"plain":             {"secret", "secret", false},
		"absurd iterations": {"secret", "SCRAM-SHA-256$99999999999:AAAA$AAAA:AAAA", false},
	} {
		if got := ScramMatches(c.password, c.verifier); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if _, ok := ScramVerifier("größer"); ok {
		t.Error("a verifier of a password that the server would prepare first")
	}
	if again, _ := ScramVerifier("correct horse"); again == made {
		t.Error("the salt is always the same")
	}
}
