package patroni

import "testing"

// Only what no waiting and no parameter can mend makes a replica broken.
func TestDamage(t *testing.T) {
	for line, broken := range map[string]bool{
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed`: true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not start WAL streaming: ERROR:  can no longer access replication slot "pg4"`:                                      true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not start WAL streaming: ERROR:  requested starting point 0/5000000 on timeline 1 is not in this server's history`: true,
		`2026-11-22 10:00:00.000 UTC [71] LOG:  new timeline 2 forked off current database system timeline 1 before current recovery point 0/5000148`:                      true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  highest timeline 1 of the primary is behind recovery timeline 2`:                                                         true,
		`2026-11-22 10:00:00.000 UTC [71] PANIC:  could not locate a valid checkpoint record at 0/3000028`:                                                                 true,
		`2026-11-22 10:00:00.000 UTC [71] PANIC:  could not open file "global/pg_control": No such file or directory`:                                                      true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not open file "global/pg_filenode.map": No such file or directory`:                                                 true,
		`2026-11-22 10:00:00.000 UTC [71] PANIC:  WAL contains references to invalid pages`:                                                                                true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  incorrect checksum in control file`:                                                                                      true,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not map anonymous shared memory: Cannot allocate memory`:                                                           false,
		`2026-11-22 10:00:00.000 UTC [71] PANIC:  could not write to file "pg_wal/xlogtemp.71": No space left on device`:                                                   false,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not connect to the primary server: connection to server at "10.77.1.11", port 5432 failed: Connection refused`:     false,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  invalid value for parameter "shared_preload_libraries": "nope"`:                                                          false,
		`2026-11-22 10:00:00.000 UTC [71] FATAL:  could not start WAL streaming: ERROR:  replication slot "pg4" does not exist`:                                            false,
		`2026-11-22 10:00:00.000 UTC [71] ERROR:  could not open file "base/16384/16400": Permission denied`:                                                               false,
	} {
		if got := damage([]string{"LOG:  something else", line, "INFO: no action. I am (pg4), a secondary"}); (got != "") != broken {
			t.Errorf("%s: %q", line, got)
		}
	}
}
