package postgres

import "testing"

func TestCheckCommand(t *testing.T) {
	for command, want := range map[string]string{
		"cp /srv/wal/%f %p":  "",
		"date +%%Y; x %f %r": "",
		"100%%":              "",
		"":                   "",
		"x %{f}":             `restore_command has "%{" in it; PostgreSQL knows only %f, %p, %r and, for a % itself, %%`,
		"x %":                `restore_command has "%" in it; PostgreSQL knows only %f, %p, %r and, for a % itself, %%`,
		"x %%%ü":             `restore_command has "%ü" in it; PostgreSQL knows only %f, %p, %r and, for a % itself, %%`,
	} {
		got := ""
		if err := CheckCommand("restore_command", command); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", command, got, want)
		}
	}
	if err := CheckCommand("recovery_end_command", "x %f"); err == nil {
		t.Error("recovery_end_command may have the name of a file")
	}
	if err := CheckCommand("recovery_min_apply_delay", "5%"); err != nil {
		t.Error("what is no command is taken for one")
	}
}
