package patroni

import "testing"

// Lines as PostgreSQL 15 and 17 write them, with any prefix.
func TestStartsInVain(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  int
	}{
		"a replica that waits": {want: 0, lines: []string{
			"FATAL:  the database system is starting up",
			"2026-11-28 01:44:47.790 UTC [2195] FATAL:  could not connect to the primary server: connection refused",
			"FATAL:  terminating walreceiver due to administrator command",
			"LOG:  database system is shut down",
		}},
		"a setting of replicas": {want: 2, lines: []string{
			"FATAL:  invalid value for parameter \"restore_command\": \"x %{\"",
			"LOG:  startup process (PID 2195) exited with exit code 1",
			"LOG:  shutting down due to startup process failure",
			"LOG:  database system is shut down",
			"2026-11-28 01:44:57.790 UTC [2199] odd prefix ! LOG:  aborting startup due to startup process failure",
		}},
		"a file that cannot be read": {want: 1, lines: []string{
			"LOG:  syntax error in file \"/srv/pg/postgresql.conf\" line 3, near token \"x\"",
			"FATAL:  configuration file \"/srv/pg/postgresql.conf\" contains errors",
		}},
	} {
		if got := inVain(c.lines); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
