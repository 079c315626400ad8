package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Lines are read as PostgreSQL reads them: names with blanks, commas and '#' in
// quotes are one name, and lists may have blanks after their commas.
func TestParseHBA(t *testing.T) {
	for line, want := range map[string]HBA{
		"local all all peer": {Type: "local", Databases: []string{"all"}, Users: []string{"all"}, Method: "peer"},
		"hostssl\treplication  replicator samenet scram-sha-256 # why": {
			Type: "hostssl", Databases: []string{"replication"}, Users: []string{"replicator"}, Address: "samenet", Method: "scram-sha-256",
		},
		`hostssl "odd db, #1",b "odd ""user"" ü", c 10.0.0.0/8 cert map="a b"`: {
			Type: "hostssl", Databases: []string{`"odd db, #1"`, "b"}, Users: []string{`"odd ""user"" ü"`, "c"}, Address: "10.0.0.0/8", Method: "cert", Options: `map="a b"`,
		},
		"host all all 10.0.0.1 255.255.255.255 md5": {
			Type: "host", Databases: []string{"all"}, Users: []string{"all"}, Address: "10.0.0.1 255.255.255.255", Method: "md5",
		},
	} {
		got, err := ParseHBA(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
	for line, says := range map[string]string{
		"": "empty", "# local all all peer": "empty", "local all": "has 2 fields", `local "all all peer`: "a quote that does not end",
		"local all all peer\nhost all all all trust": "line break", "include x": "not on every node", "hosts all all all trust": "must be one of local",
		"host all all 10.0.0.0/33 trust": "not a network", "host all all 10.0.0.1 trust": "needs a mask", "host all all all please": "not a method",
	} {
		if _, err := ParseHBA(line); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: the error is %v, want %q", line, err, says)
		}
	}
}
